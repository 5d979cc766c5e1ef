/* A USB camera for tests where no device is: loaded in front of libc (LD_PRELOAD) it answers, for one path, what the kernel's
   V4L2 drivers answer. FFmpeg, which reads such devices, cannot tell.

   V4L2_CAMERA   the path, which need not exist: /dev/video-test
   V4L2_FILM     its pictures: raw YUYV 4:2:2 of V4L2_SIZE (WIDTHxHEIGHT), played V4L2_FPS to the second, the last one over and over
   V4L2_FAULT    "stall N": picture N, counted from 0, does not come until the device is opened again (0: never)
                 "unplug N SECONDS": instead of picture N the device is gone, for so long */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { BUFFERS = 32 };

static int device = -1, nonblocking, width, height, fps, film, queue[BUFFERS], queued, frames, fault_at = -1;
static size_t size;
static double next_s, back_s, gone_for_s;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int fail(int reason) {
    errno = reason;
    return -1;
}

static int plug(int flags) {
    if (now() < back_s) return fail(ENOENT);
    sscanf(getenv("V4L2_SIZE"), "%dx%d", &width, &height);
    fps = atoi(getenv("V4L2_FPS"));
    size = ((size_t)width * height * 2 + 4095) / 4096 * 4096;
    if (film == 0) {
        int (*libc_open)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
        film = libc_open(getenv("V4L2_FILM"), O_RDONLY);
        const char *fault = getenv("V4L2_FAULT");
        if (fault && sscanf(fault, "unplug %d %lf", &fault_at, &gone_for_s) < 1) sscanf(fault, "stall %d", &fault_at);
    }
    if (fault_at > 0 && frames >= fault_at) fault_at = -1; /* opened again, it plays on */
    nonblocking = flags & O_NONBLOCK;
    return device = memfd_create("camera", 0);
}

int open64(const char *path, int flags, ...) {
    const char *mine = getenv("V4L2_CAMERA");
    if (mine && strcmp(path, mine) == 0) return plug(flags);
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int);
    va_end(rest);
    int (*libc)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    return libc(path, flags, mode);
}

static void set_picture(struct v4l2_pix_format *pix) {
    pix->width = width, pix->height = height;
    pix->pixelformat = V4L2_PIX_FMT_YUYV, pix->field = V4L2_FIELD_NONE;
    pix->bytesperline = width * 2, pix->sizeimage = width * height * 2;
}

static int take(struct v4l2_buffer *buffer) {
    int faulty = fault_at >= 0 && frames >= fault_at;
    if (faulty && gone_for_s > 0) {
        back_s = now() + gone_for_s, fault_at = -1;
        return fail(ENODEV);
    }
    double wait = next_s - now();
    if (queued == 0 || faulty || (nonblocking && wait > 0)) {
        if (nonblocking) return fail(EAGAIN);
        for (;;) pause();
    }
    if (wait > 0) usleep((useconds_t)(wait * 1e6));
    int index = queue[0], bytes = width * height * 2;
    memmove(queue, queue + 1, sizeof(int) * --queued);
    char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, device, (off_t)index * size);
    off_t last = lseek(film, 0, SEEK_END) - bytes, here = (off_t)bytes * frames;
    if (pread(film, at, bytes, here < last ? here : last) < bytes) return fail(EIO);
    munmap(at, size);
    buffer->index = index, buffer->bytesused = bytes, buffer->flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
    buffer->timestamp.tv_sec = (long)next_s, buffer->timestamp.tv_usec = (long)((next_s - (long)next_s) * 1e6);
    buffer->sequence = frames++;
    next_s += 1.0 / fps;
    return 0;
}

static int answer(unsigned long request, void *asked) {
    switch (request) {
    case VIDIOC_QUERYCAP: {
        struct v4l2_capability *c = asked;
        memset(c, 0, sizeof *c);
        strcpy((char *)c->driver, "test"), strcpy((char *)c->card, "a camera for tests");
        c->capabilities = c->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        return 0;
    }
    case VIDIOC_ENUM_FMT: {
        struct v4l2_fmtdesc *f = asked;
        if (f->index > 0) return fail(EINVAL);
        f->pixelformat = V4L2_PIX_FMT_YUYV;
        return 0;
    }
    case VIDIOC_S_FMT: case VIDIOC_G_FMT: case VIDIOC_TRY_FMT:
        set_picture(&((struct v4l2_format *)asked)->fmt.pix);
        return 0;
    case VIDIOC_G_INPUT: *(int *)asked = 0; return 0;
    case VIDIOC_S_INPUT: return 0;
    case VIDIOC_ENUMINPUT: return ((struct v4l2_input *)asked)->index ? fail(EINVAL) : 0;
    case VIDIOC_G_PARM: case VIDIOC_S_PARM: {
        struct v4l2_captureparm *c = &((struct v4l2_streamparm *)asked)->parm.capture;
        c->capability = V4L2_CAP_TIMEPERFRAME, c->timeperframe.numerator = 1, c->timeperframe.denominator = fps;
        return 0;
    }
    case VIDIOC_REQBUFS: {
        struct v4l2_requestbuffers *r = asked;
        if (r->count > BUFFERS) r->count = BUFFERS;
        queued = 0;
        return ftruncate(device, (off_t)r->count * size);
    }
    case VIDIOC_QUERYBUF: {
        struct v4l2_buffer *b = asked;
        b->length = size, b->m.offset = b->index * size;
        return 0;
    }
    case VIDIOC_QBUF: queue[queued++] = ((struct v4l2_buffer *)asked)->index; return 0;
    case VIDIOC_STREAMON: next_s = now() + 1.0 / fps; return 0;
    case VIDIOC_STREAMOFF: return 0;
    case VIDIOC_DQBUF: return take(asked);
    }
    return fail(ENOTTY);
}

int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *asked = va_arg(rest, void *);
    va_end(rest);
    if (fd >= 0 && fd == device) return answer(request, asked);
    int (*libc)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
    return libc(fd, request, asked);
}
