/*
 * Compiles one body for both types of the parts. A source says
 *
 *     #define GDNI_BODY "layer/conv1d_body.h"
 *     #include "layer/typed.h"
 *
 * and gets the body's functions twice: TYPED(name) is name_fp32 with `real` float, then name_fp64
 * with `real` double. GDNI_PICK(dtype, name) is the one that a checked part needs.
 */
#include "layer/vector_math.h"

#define real float
#define TYPED(name) name##_fp32
#include GDNI_BODY
#undef real
#undef TYPED

#define real double
#define TYPED(name) name##_fp64
#include GDNI_BODY
#undef real
#undef TYPED

#undef GDNI_BODY

#ifndef GDNI_PICK
#define GDNI_PICK(dtype, name) ((dtype) == GDN_DTYPE_FP64 ? name##_fp64 : name##_fp32)
#endif
