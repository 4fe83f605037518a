#include "sharding.h"
#include "device.h"

static gdn_status enqueued(const gdn_context *context, const char *what, int error) {
    if (!error)
        return GDN_STATUS_OK;
    return gdni_fail(GDN_STATUS_CUDA_ERROR, "device %d: %s: %s", context->device, what,
                     gdni_cuda_error_text(error));
}

gdn_status gdni_device_decide(const gdn_context *context, const gdn_problem *problem,
                              const gdn_tensors *tensors, const gdni_sharding_run *run,
                              gdn_stream stream) {
    const gdni_cuda_device device = gdni_device_of(context);
    return enqueued(context, "deciding which heads forget",
                    gdni_sharding_decide(&device, problem, tensors, run, stream));
}

gdn_status gdni_device_choose(const gdn_context *context, const gdn_problem *p, void *to,
                              const void *from, const int64_t *cut, gdn_stream stream) {
    const gdni_cuda_device device = gdni_device_of(context);
    return enqueued(
        context, "copying a state",
        gdni_sharding_choose(&device, to, from, cut, p->T, (int64_t)p->Hv * p->K * p->V, stream));
}

gdn_status gdni_device_identity(const gdn_context *context, const gdn_problem *p, void *to,
                                gdn_stream stream) {
    const gdni_cuda_device device = gdni_device_of(context);
    return enqueued(context, "an identity",
                    gdni_sharding_identity(&device, to, p->Hv, p->K, stream));
}

gdn_status gdni_device_apply(const gdn_context *context, const gdn_problem *problem,
                             const gdni_sharding_step *step, gdn_stream stream) {
    const gdni_cuda_device device = gdni_device_of(context);
    return enqueued(context, "applying M", gdni_sharding_apply(&device, problem, step, stream));
}
