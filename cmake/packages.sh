# The Debian and Ubuntu packages that the project builds and runs on; sourced by scripts.
# install_packages PACKAGE...: installs those that are missing, as root or through sudo.

gdn_build_packages=(
    cmake g++ make pkg-config
    libhdf5-dev libopenblas-openmp-dev libinih-dev libsentencepiece-dev
    libopenmpi-dev openmpi-bin
)
gdn_text_package=bible-kjv # the quick start's text
gdn_test_packages=(git clang-format python3-numpy python3-h5py libhdf5-openmpi-dev $gdn_text_package)

install_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    local sudo=
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || {
            echo "missing packages: ${missing[*]}; run as root, or install them first" >&2
            return 1
        }
        sudo=sudo
    fi
    echo "installing: ${missing[*]}"
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" >/dev/null
}
