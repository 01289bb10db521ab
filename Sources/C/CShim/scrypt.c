// scrypt's memory-hard part for two lanes side by side, one in each half of a vector.
// Source: RFC 7914; C. Percival, "Stronger key derivation via sequential memory-hard functions", 2009.
#include "CShim.h"
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>

int salvor_scrypt_pairs(void) { return __builtin_cpu_supports("avx2") != 0; }

// Rows of a block's matrix, turned so that its diagonals are columns.
struct rows {
  __m256i row[4];
};

#define TWO __attribute__((target("avx2")))
#define ROTATED(value, bits) _mm256_xor_si256(_mm256_slli_epi32(value, bits), _mm256_srli_epi32(value, 32 - bits))
#define NAMED(name) name##_avx2
#include "scrypt_lanes.inc"
#undef TWO
#undef ROTATED
#undef NAMED

#define TWO __attribute__((target("avx2,avx512f,avx512vl")))
#define ROTATED(value, bits) _mm256_rol_epi32(value, bits)
#define NAMED(name) name##_avx512
#include "scrypt_lanes.inc"

void salvor_scrypt_mix_two(uint8_t *a, uint8_t *b, size_t n, size_t r, void *memory) {
  if (__builtin_cpu_supports("avx512vl")) mix_two_avx512(a, b, n, r, memory);
  else mix_two_avx2(a, b, n, r, memory);
}

#else

int salvor_scrypt_pairs(void) { return 0; }
void salvor_scrypt_mix_two(uint8_t *a, uint8_t *b, size_t n, size_t r, void *memory) {}

#endif
