// Makes a device current while it lives, and the caller's one again afterwards.
#pragma once

#include <cuda_runtime.h>

namespace gdni {

class DeviceGuard {
  public:
    explicit DeviceGuard(int device) {
        error_ = cudaGetDevice(&before_);
        if (error_ == cudaSuccess && before_ != device)
            error_ = cudaSetDevice(device);
        changed_ = error_ == cudaSuccess && before_ != device;
    }
    ~DeviceGuard() {
        if (changed_)
            cudaSetDevice(before_);
    }
    DeviceGuard(const DeviceGuard &) = delete;
    DeviceGuard &operator=(const DeviceGuard &) = delete;
    cudaError_t error() const {
        return error_;
    }

  private:
    int before_ = 0;
    bool changed_ = false;
    cudaError_t error_;
};

} // namespace gdni
