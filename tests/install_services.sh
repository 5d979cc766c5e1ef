#!/bin/sh
# Installs what the tests run against (servers, compilers for the USB camera and for compiled training), where apt is there and we may use it. What is missing
# afterwards is a skipped test with its reason on a developer's machine and a failure when CI=true.
set -u
packages="gir1.2-gst-rtsp-server-1.0 gstreamer1.0-rtsp gstreamer1.0-plugins-good gstreamer1.0-plugins-bad glib-networking python3-gi redis-server gcc g++ libc6-dev python3-dev"
missing=""
for package in $packages; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "the tests can use these Debian packages, and skip without them:$missing"
    exit 0
fi
echo "installing for the tests:$missing"
export DEBIAN_FRONTEND=noninteractive
# A server that the package would start by itself is none of ours: keep it from starting.
printf '#!/bin/sh\nexit 101\n' >/tmp/sightline-policy-rc.d && chmod +x /tmp/sightline-policy-rc.d
[ -e /usr/sbin/policy-rc.d ] || { cp /tmp/sightline-policy-rc.d /usr/sbin/policy-rc.d && placed=1; }
apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null
status=$?
[ "${placed:-}" = 1 ] && rm -f /usr/sbin/policy-rc.d
rm -f /tmp/sightline-policy-rc.d
exit $status
