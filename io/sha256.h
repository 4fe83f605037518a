/* SHA-256 (FIPS 180-4) of a buffer, as hexadecimal text. */
#ifndef GDNI_IO_SHA256_H
#define GDNI_IO_SHA256_H

#include <stddef.h>

void gdni_sha256(const void *data, size_t size, char hex[65]);

#endif /* GDNI_IO_SHA256_H */
