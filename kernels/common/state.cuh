// A warpgroup's S^T, 64 rows of V by 128 columns of K in accumulators of wgmma, to and from memory
// while a product on other accumulators is under way; sm_90.
#pragma once

#include <cstdint>

namespace gdni {

// Element 4 j + i of a lane is S[k + 8 j + i % 2][v + i / 2 * 8]. If `to`, the address of S[k][v]
// in rows of 128 floats, they are written there. If `begins`, they are then replaced by what lies
// in shared memory, once the phase `parity` of `barrier` has ended: `from` is the address of
// S[k][v] in rows of 32 floats with the 128-byte swizzle. NOTE: one asm statement: between products
// under way, a C++ branch would serialise them.
#define GDNI_STATE_STORE(j, a, b, c, d)                                                            \
    "st.global.f32 [%64+" #j "*4096], %" #a ";\nst.global.f32 [%64+" #j "*4096+512], %" #b ";\n"   \
    "st.global.f32 [%64+" #j "*4096+32], %" #c ";\nst.global.f32 [%64+" #j "*4096+544], %" #d      \
    ";\n"
#define GDNI_STATE_LOAD(j, a, b, c, d)                                                             \
    "ld.shared.f32 %" #a ", [%68+" #j "*1024];\nld.shared.f32 %" #b ", [x+" #j "*1024];\n"         \
    "ld.shared.f32 %" #c ", [y+" #j "*1024];\nld.shared.f32 %" #d ", [z+" #j "*1024];\n"
#define GDNI_STATE_ALL(X)                                                                          \
    X(0, 0, 1, 2, 3)                                                                               \
    X(1, 4, 5, 6, 7)                                                                               \
    X(2, 8, 9, 10, 11)                                                                             \
    X(3, 12, 13, 14, 15)                                                                           \
    X(4, 16, 17, 18, 19)                                                                           \
    X(5, 20, 21, 22, 23)                                                                           \
    X(6, 24, 25, 26, 27)                                                                           \
    X(7, 28, 29, 30, 31)                                                                           \
    X(8, 32, 33, 34, 35)                                                                           \
    X(9, 36, 37, 38, 39)                                                                           \
    X(10, 40, 41, 42, 43)                                                                          \
    X(11, 44, 45, 46, 47)                                                                          \
    X(12, 48, 49, 50, 51)                                                                          \
    X(13, 52, 53, 54, 55)                                                                          \
    X(14, 56, 57, 58, 59)                                                                          \
    X(15, 60, 61, 62, 63)
__device__ __forceinline__ void exchange_state(float (&s)[64], float *to, bool begins,
                                               uint32_t barrier, uint32_t parity, uint32_t from) {
    asm volatile("{\n.reg .pred p;\n.reg .b32 x, y, z;\n"
                 "setp.eq.b64 p, %64, 0;\n@p bra.uni kept;\n" GDNI_STATE_ALL(
                     GDNI_STATE_STORE) "kept:\nsetp.eq.b32 p, %65, 0;\n@p bra.uni done;\n"
                                       "wait:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%66], "
                                       "%67;\n@!p bra wait;\n"
                                       "xor.b32 x, %68, 144;\nxor.b32 y, %68, 32;\nxor.b32 z, %68, "
                                       "176;\n" GDNI_STATE_ALL(GDNI_STATE_LOAD) "done:\n}\n"
                 : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3]), "+f"(s[4]), "+f"(s[5]),
                   "+f"(s[6]), "+f"(s[7]), "+f"(s[8]), "+f"(s[9]), "+f"(s[10]), "+f"(s[11]),
                   "+f"(s[12]), "+f"(s[13]), "+f"(s[14]), "+f"(s[15]), "+f"(s[16]), "+f"(s[17]),
                   "+f"(s[18]), "+f"(s[19]), "+f"(s[20]), "+f"(s[21]), "+f"(s[22]), "+f"(s[23]),
                   "+f"(s[24]), "+f"(s[25]), "+f"(s[26]), "+f"(s[27]), "+f"(s[28]), "+f"(s[29]),
                   "+f"(s[30]), "+f"(s[31]), "+f"(s[32]), "+f"(s[33]), "+f"(s[34]), "+f"(s[35]),
                   "+f"(s[36]), "+f"(s[37]), "+f"(s[38]), "+f"(s[39]), "+f"(s[40]), "+f"(s[41]),
                   "+f"(s[42]), "+f"(s[43]), "+f"(s[44]), "+f"(s[45]), "+f"(s[46]), "+f"(s[47]),
                   "+f"(s[48]), "+f"(s[49]), "+f"(s[50]), "+f"(s[51]), "+f"(s[52]), "+f"(s[53]),
                   "+f"(s[54]), "+f"(s[55]), "+f"(s[56]), "+f"(s[57]), "+f"(s[58]), "+f"(s[59]),
                   "+f"(s[60]), "+f"(s[61]), "+f"(s[62]), "+f"(s[63])
                 : "l"(to), "r"(static_cast<int>(begins)), "r"(barrier), "r"(parity), "r"(from)
                 : "memory");
}
#undef GDNI_STATE_ALL
#undef GDNI_STATE_LOAD
#undef GDNI_STATE_STORE

} // namespace gdni
