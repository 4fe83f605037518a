/*
 * GDNI_CLONES before a function: one copy of it per vector unit, chosen when the library is loaded.
 * Not under sanitizers, which are not running yet at that time.
 */
#ifndef GDNI_CLONES_H
#define GDNI_CLONES_H

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__) &&       \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define GDNI_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define GDNI_CLONES
#endif

#endif /* GDNI_CLONES_H */
