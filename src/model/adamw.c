/* AdamW, one pass over the memory; the equation is in gdn_model.h. */
#include "gdn_model.h"
#include "layer/part.h"
#include "layer/part_ops.h"

enum {
    BLOCK = 8192
};

/* The constants of a step. */
typedef struct adamw_step {
    double lr, grad_scale, correction1, correction2; /* 1 / (1 - beta^step) */
} adamw_step;

#define GDNI_BODY "model/adamw_body.h"
#include "layer/typed.h"

static gdn_status check_unit(const char *function, const char *name, double value) {
    GDNI_REQUIRE(value >= 0 && value < 1, "%s: %s is %g, expected at least 0 and less than 1",
                 function, name, value);
    return GDN_STATUS_OK;
}

static gdn_status check(const char *function, const gdn_adamw *p) {
    GDNI_RANGE(count, 0, INT64_MAX / 16);
    GDNI_RANGE(step, 1, INT64_MAX);
    GDNI_REQUIRE(isfinite(p->lr), "%s: lr is %g, expected a finite number", function, p->lr);
    GDN_TRY(check_unit(function, "beta1", p->beta1));
    GDN_TRY(check_unit(function, "beta2", p->beta2));
    GDN_TRY(gdni_part_eps(function, "eps", p->eps));
    GDNI_REQUIRE(isfinite(p->weight_decay), "%s: weight_decay is %g, expected a finite number",
                 function, p->weight_decay);
    if (p->count > 0) {
        GDNI_POINTER(param);
        GDNI_POINTER(grad);
        GDNI_POINTER(m);
        GDNI_POINTER(v);
    }
    return GDN_STATUS_OK;
}

gdn_status gdn_adamw_step(const gdn_context *context, const gdn_adamw *part, gdn_stream stream) {
    GDNI_PART_BEGIN(gdn_adamw);
    GDN_TRY(check(__func__, &p));
    if (context->ops->parts)
        return context->ops->parts->adamw(context, &p, 0, stream);
    const double count = p.schedule ? p.schedule[0] : (double)p.step;
    const adamw_step step = {p.schedule ? p.schedule[1] : p.lr, p.grad_scale ? *p.grad_scale : 1.0,
                             1.0 / (1.0 - pow(p.beta1, count)), 1.0 / (1.0 - pow(p.beta2, count))};
    if (isfinite(step.grad_scale))
        GDNI_PICK(p.dtype, adamw)(&p, &step, context->threads);
    return GDN_STATUS_OK;
}
