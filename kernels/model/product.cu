// Matrix products through cuBLASLt. The library is half a gigabyte, so nothing links to it: it is
// looked for when the first product needs it.
#include "../guard.h"
#include "model.h"

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <dlfcn.h>

#include <cstdio>
#include <mutex>

namespace gdni {

namespace {

#define GDNI_STRING_(x) #x
#define GDNI_STRING(x) GDNI_STRING_(x)
constexpr char LIBRARY[] = "libcublasLt.so." GDNI_STRING(CUBLAS_VER_MAJOR);
#undef GDNI_STRING
#undef GDNI_STRING_

// Codes of this file; others below 0 are cuBLASLt's, negated.
enum {
    NO_LIBRARY = -1000,
    NO_ALGORITHM = -1001
};

// cublasLt...
#define GDNI_FUNCTIONS(X)                                                                          \
    X(Create)                                                                                      \
    X(GetStatusString)                                                                             \
    X(Matmul)                                                                                      \
    X(MatmulAlgoGetHeuristic)                                                                      \
    X(MatmulDescCreate)                                                                            \
    X(MatmulDescDestroy)                                                                           \
    X(MatmulDescSetAttribute)                                                                      \
    X(MatmulPreferenceCreate)                                                                      \
    X(MatmulPreferenceDestroy)                                                                     \
    X(MatmulPreferenceSetAttribute)                                                                \
    X(MatrixLayoutCreate)                                                                          \
    X(MatrixLayoutDestroy)

struct Library {
#define GDNI_MEMBER(name) decltype(&cublasLt##name) name = nullptr;
    GDNI_FUNCTIONS(GDNI_MEMBER)
#undef GDNI_MEMBER
    bool found = false;
    char reason[256] = "";

    Library() {
        void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
        found = library != nullptr;
#define GDNI_LOAD(name)                                                                            \
    if (found) {                                                                                   \
        name = reinterpret_cast<decltype(name)>(dlsym(library, "cublasLt" #name));                 \
        found = name != nullptr;                                                                   \
    }
        GDNI_FUNCTIONS(GDNI_LOAD)
#undef GDNI_LOAD
        if (found)
            return;
        const char *why = dlerror();
        std::snprintf(reason, sizeof(reason), "%s not found: %s", LIBRARY, why ? why : "no reason");
    }
};
#undef GDNI_FUNCTIONS

const Library &library() {
    static const Library found; // looked for once a process
    return found;
}

// A device's handle, made once. Threads may share it.
constexpr int DEVICES = 64;
struct Handle {
    std::once_flag once;
    cublasLtHandle_t handle = nullptr;
    cublasStatus_t status = CUBLAS_STATUS_NOT_INITIALIZED;
};
Handle handles[DEVICES];

int find_handle(int device, cublasLtHandle_t *out) {
    const Library &lt = library();
    if (!lt.found)
        return NO_LIBRARY;
    if (device >= DEVICES)
        return cudaErrorInvalidDevice;
    Handle &h = handles[device];
    std::call_once(h.once, [&] { h.status = lt.Create(&h.handle); });
    *out = h.handle;
    return -h.status;
}

cudaDataType_t data_type(gdn_dtype dtype) {
    return dtype == GDN_DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

// The largest power of two that divides an address, as far as kernels care.
uint32_t alignment(const void *pointer) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(pointer) | 256;
    return static_cast<uint32_t>(address & -address);
}

// One product's descriptors. cuBLASLt counts by columns, where row-major c is c^T = b^T a^T: its
// first factor is b.
class Call {
  public:
    explicit Call(const gdni_product &p) : p_(p) {
        set_up(); // leaves the first failure in status_
    }
    ~Call() {
        if (preference_)
            lt_.MatmulPreferenceDestroy(preference_);
        for (cublasLtMatrixLayout_t layout : {a_, b_, c_})
            if (layout)
                lt_.MatrixLayoutDestroy(layout);
        if (desc_)
            lt_.MatmulDescDestroy(desc_);
    }
    Call(const Call &) = delete;
    Call &operator=(const Call &) = delete;

    int enqueue(cublasLtHandle_t handle, cudaStream_t stream) {
        const float alpha = 1.0f, beta = p_.accumulate ? 1.0f : 0.0f;
        cublasLtMatmulHeuristicResult_t best;
        int found = 0;
        if (status_ != CUBLAS_STATUS_SUCCESS)
            return -status_;
        status_ = lt_.MatmulAlgoGetHeuristic(handle, desc_, b_, a_, c_, c_, preference_, 1, &best,
                                             &found);
        if (status_ == CUBLAS_STATUS_NOT_SUPPORTED ||
            (status_ == CUBLAS_STATUS_SUCCESS && found == 0))
            return NO_ALGORITHM;
        if (status_ != CUBLAS_STATUS_SUCCESS)
            return -status_;
        return -lt_.Matmul(handle, desc_, &alpha, p_.b, b_, p_.a, a_, &beta, p_.c, c_, p_.c, c_,
                           &best.algo, p_.workspace, GDNI_PRODUCT_WORKSPACE, stream);
    }

  private:
    const Library &lt_ = library();
    const gdni_product &p_;
    cublasStatus_t status_ = CUBLAS_STATUS_SUCCESS;
    cublasLtMatmulDesc_t desc_ = nullptr;
    cublasLtMatrixLayout_t a_ = nullptr, b_ = nullptr, c_ = nullptr;
    cublasLtMatmulPreference_t preference_ = nullptr;

    bool ok(cublasStatus_t status) {
        status_ = status;
        return status == CUBLAS_STATUS_SUCCESS;
    }
    template <typename T>
    bool describe(cublasLtMatmulDescAttributes_t what, T value) {
        return ok(lt_.MatmulDescSetAttribute(desc_, what, &value, sizeof(value)));
    }
    template <typename T>
    bool prefer(cublasLtMatmulPreferenceAttributes_t what, T value) {
        return ok(lt_.MatmulPreferenceSetAttribute(preference_, what, &value, sizeof(value)));
    }
    // A row-major matrix, by its memory.
    bool lay_out(cublasLtMatrixLayout_t *layout, gdn_dtype dtype, int64_t rows, int64_t columns,
                 int64_t stride) {
        return ok(lt_.MatrixLayoutCreate(layout, data_type(dtype), static_cast<uint64_t>(columns),
                                         static_cast<uint64_t>(rows), stride ? stride : columns));
    }

    bool set_up() {
        const cublasOperation_t op_a = p_.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
        const cublasOperation_t op_b = p_.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
        return ok(lt_.MatmulDescCreate(&desc_, CUBLAS_COMPUTE_32F, CUDA_R_32F)) &&
               describe(CUBLASLT_MATMUL_DESC_TRANSA, op_b) &&
               describe(CUBLASLT_MATMUL_DESC_TRANSB, op_a) &&
               lay_out(&a_, p_.in, p_.trans_a ? p_.k : p_.m, p_.trans_a ? p_.m : p_.k, p_.lda) &&
               lay_out(&b_, p_.in, p_.trans_b ? p_.n : p_.k, p_.trans_b ? p_.k : p_.n, p_.ldb) &&
               lay_out(&c_, p_.out, p_.m, p_.n, p_.ldc) &&
               ok(lt_.MatmulPreferenceCreate(&preference_)) &&
               prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                      static_cast<uint64_t>(GDNI_PRODUCT_WORKSPACE)) &&
               // Split sums meet in the workspace, in order.
               prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                      static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)) &&
               prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(p_.b)) &&
               prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(p_.a)) &&
               prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(p_.c)) &&
               prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(p_.c));
    }
};

} // namespace

} // namespace gdni

extern "C" {

const char *gdni_model_error_text(int code) {
    using namespace gdni;
    if (code >= 0)
        return gdni_cuda_error_text(code);
    if (code == NO_LIBRARY)
        return library().reason;
    if (code == NO_ALGORITHM)
        return "cuBLASLt has no algorithm for this product";
    return library().GetStatusString(static_cast<cublasStatus_t>(-code));
}

int gdni_product_ready(const gdni_cuda_device *device) {
    const gdni::DeviceGuard guard(device->ordinal);
    cublasLtHandle_t handle;
    return guard.error() != cudaSuccess ? guard.error()
                                        : gdni::find_handle(device->ordinal, &handle);
}

int gdni_product_enqueue(const gdni_cuda_device *device, const gdni_product *p, gdn_stream stream) {
    const gdni::DeviceGuard guard(device->ordinal);
    cublasLtHandle_t handle;
    if (guard.error() != cudaSuccess)
        return guard.error();
    if (p->m == 0 || p->n == 0)
        return 0;
    if (p->k == 0) {
        const size_t element = p->out == GDN_DTYPE_BF16 ? 2 : 4;
        const size_t stride = element * static_cast<size_t>(p->ldc ? p->ldc : p->n);
        return p->accumulate ? 0
                             : cudaMemset2DAsync(p->c, stride, 0, element * p->n,
                                                 static_cast<size_t>(p->m), stream);
    }
    const int error = gdni::find_handle(device->ordinal, &handle);
    if (error)
        return error;
    return gdni::Call(*p).enqueue(handle, stream);
}

} // extern "C"
