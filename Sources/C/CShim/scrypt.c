// scrypt's memory-hard part for four lanes side by side, one in each quarter of a vector.
// Source: RFC 7914; C. Percival, "Stronger key derivation via sequential memory-hard functions", 2009.
#include "CShim.h"
#include <string.h>

typedef uint32_t vector4 __attribute__((vector_size(16)));
typedef uint32_t vector8 __attribute__((vector_size(32)));
typedef uint32_t vector16 __attribute__((vector_size(64)));

#define ROTATED(value, bits) (((value) << (bits)) | ((value) >> (32 - (bits))))
#define TURNED_BY_1(x) __builtin_shufflevector(x, x, 3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14)
#define TURNED_BY_2(x) __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)
#define TURNED_BY_3(x) __builtin_shufflevector(x, x, 1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12)

// A block's sixteen words are kept as the rows of a matrix that is turned so that its diagonals are columns.
static size_t place(size_t block, size_t word, size_t lane) { return (block * 4 + word / 4) * 16 + lane * 4 + word % 4; }

static void load_lanes(const uint8_t *bytes, size_t lanes, size_t r, uint32_t *words) {
  for (size_t lane = 0; lane < lanes; lane++)
    for (size_t block = 0; block < 2 * r; block++)
      for (size_t word = 0; word < 16; word++)
        memcpy(words + place(block, word, lane), bytes + lane * 128 * r + (block * 16 + word * 5 % 16) * 4, 4);
}

static void store_lane(const uint32_t *words, size_t lane, size_t r, uint8_t *bytes) {
  for (size_t block = 0; block < 2 * r; block++)
    for (size_t word = 0; word < 16; word++)
      memcpy(bytes + lane * 128 * r + (block * 16 + word * 5 % 16) * 4, words + place(block, word, lane), 4);
}

#define WITH
#define NAMED(name) name##_plain
#include "scrypt_lanes.inc"
#undef WITH
#undef NAMED

#if defined(__x86_64__)
#define WITH __attribute__((target("avx2")))
#define NAMED(name) name##_avx2
#include "scrypt_lanes.inc"
#undef WITH
#undef NAMED

#define WITH __attribute__((target("avx512f")))
#define NAMED(name) name##_avx512
#include "scrypt_lanes.inc"
#undef WITH
#undef NAMED
#endif

void salvor_scrypt_mix(uint8_t *bytes, size_t lanes, size_t n, size_t r, size_t stride, void *memory,
                       int vector_bits) {
#if defined(__x86_64__)
  if (vector_bits >= 512 && __builtin_cpu_supports("avx512f"))
    return mix_lanes_avx512(bytes, lanes, n, r, stride, memory);
  if (vector_bits >= 256 && __builtin_cpu_supports("avx2"))
    return mix_lanes_avx2(bytes, lanes, n, r, stride, memory);
#endif
  mix_lanes_plain(bytes, lanes, n, r, stride, memory);
}
