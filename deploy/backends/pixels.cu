// Pictures of any size -> the batch that a model takes: letterboxed, or stretched.
//
// The same resize as cv2 gives on the CPU (detector/letterbox.py, reid/crops.py), to within one grey level: averaging over areas
// where the picture shrinks, bilinear elsewhere, pixel centres at half coordinates. All arithmetic is in integers, so the host's
// compiler and the GPU's give the same bits and a test on the CPU speaks for the GPU.
//
// Scaling, mean and std are not here: the graph does that, once (stream/model.py).

#define CHANNELS 3

typedef unsigned char u8;
typedef unsigned long long u64;

// One picture, as the host wrote it: eight numbers in this order.
struct Job {
    long long offset;      // of its first byte in `pixels`
    long long row_bytes;   // from a row to the next
    long long height, width;
    long long fit_height, fit_width;  // it is scaled to this, top left; the rest is filled
    long long averages;    // 1: over areas (it shrinks), 0: bilinear
    long long fill;        // grey of the rest
};

// Two neighbours along one side, and how much the second counts: `far` of `whole`.
struct Between {
    int near, next;
    u64 far, whole;
};

static __device__ Between between(int to, int size, int fit) {
    Between found;
    long long twice = (2LL * to + 1) * size - fit;  // centre of pixel `to` in the picture, times 2 * fit
    found.whole = 2ULL * fit;
    if (twice <= 0) {
        found.near = found.next = 0;
        found.far = 0;
    } else {
        found.near = (int)(twice / (long long)found.whole);
        found.far = (u64)(twice % (long long)found.whole);
        found.next = found.near + 1 < size ? found.near + 1 : found.near;
    }
    return found;
}

static __device__ u8 bilinear(const u8 *first, long long row_bytes, Between rows, Between columns, int channel) {
    const u8 *above = first + rows.near * row_bytes + channel;
    const u8 *below = first + rows.next * row_bytes + channel;
    u64 left = columns.whole - columns.far;
    u64 upper = above[columns.near * CHANNELS] * left + above[columns.next * CHANNELS] * columns.far;
    u64 lower = below[columns.near * CHANNELS] * left + below[columns.next * CHANNELS] * columns.far;
    u64 total = rows.whole * columns.whole;
    return (u8)((2 * (upper * (rows.whole - rows.far) + lower * rows.far) + total) / (2 * total));
}

// How much of the interval [from, until) lies in pixel `place`, all in units of 1 / fit of a pixel.
static __device__ u64 overlap(int place, int fit, int from, int until) {
    int begin = place * fit, end = begin + fit;
    return (u64)((end < until ? end : until) - (begin > from ? begin : from));
}

static __device__ u8 average(const u8 *first, Job job, int to_row, int to_column, int channel) {
    int height = (int)job.height, width = (int)job.width, fit_height = (int)job.fit_height, fit_width = (int)job.fit_width;
    int top = to_row * height, bottom = top + height, left = to_column * width, right = left + width;
    u64 sum = 0, total = (u64)height * (u64)width;
    for (int row = top / fit_height; row * fit_height < bottom; ++row) {
        const u8 *pixels = first + row * job.row_bytes + channel;
        u64 along = 0;
        for (int column = left / fit_width; column * fit_width < right; ++column)
            along += pixels[column * CHANNELS] * overlap(column, fit_width, left, right);
        sum += along * overlap(row, fit_height, top, bottom);
    }
    return (u8)((2 * sum + total) / (2 * total));
}

// A thread per pixel of the batch (gridDim.z pictures of height x width x 3).
extern "C" __global__ void fit_pictures(const u8 *pixels, const Job *jobs, u8 *batch, int height, int width) {
    int column = (int)(blockIdx.x * blockDim.x + threadIdx.x), row = (int)(blockIdx.y * blockDim.y + threadIdx.y);
    int place = (int)blockIdx.z;
    if (column >= width || row >= height)
        return;
    Job job = jobs[place];
    u8 *out = batch + (((long long)place * height + row) * width + column) * CHANNELS;
    if (row >= job.fit_height || column >= job.fit_width) {
        for (int channel = 0; channel < CHANNELS; ++channel)
            out[channel] = (u8)job.fill;
        return;
    }
    const u8 *first = pixels + job.offset;
    if (job.averages) {
        for (int channel = 0; channel < CHANNELS; ++channel)
            out[channel] = average(first, job, row, column, channel);
        return;
    }
    Between rows = between(row, (int)job.height, (int)job.fit_height);
    Between columns = between(column, (int)job.width, (int)job.fit_width);
    for (int channel = 0; channel < CHANNELS; ++channel)
        out[channel] = bilinear(first, job.row_bytes, rows, columns, channel);
}
