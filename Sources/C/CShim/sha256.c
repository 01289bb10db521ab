// SHA-256 of two streams at once. One stream leaves half of a core's SHA unit idle: every round waits for the one
// before. Whatever isn't done in pairs is libcrypto's work, on the same state.
#define OPENSSL_SUPPRESS_DEPRECATED
#include "CShim.h"

#include <openssl/sha.h>
#include <string.h>

static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                  0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

void salvor_sha256_begin(struct salvor_sha256 *hash) {
  memcpy(hash->state, start, sizeof start);
  hash->bytes = 0;
}

static size_t filled(const struct salvor_sha256 *hash) { return hash->bytes % 64; }

// Whole blocks of one stream, by libcrypto.
static void one(struct salvor_sha256 *hash, const uint8_t *input, size_t blocks) {
  if (blocks == 0) return;
  SHA256_CTX context;
  memset(&context, 0, sizeof context);
  memcpy(context.h, hash->state, sizeof hash->state);
  context.md_len = SHA256_DIGEST_LENGTH;
  SHA256_Update(&context, input, blocks * 64);
  memcpy(hash->state, context.h, sizeof hash->state);
}

// Completes a block begun earlier. The input left is whole blocks and a rest, unless it ended first.
static void top_up(struct salvor_sha256 *hash, const uint8_t **input, size_t *size) {
  size_t have = filled(hash);
  if (have == 0) return;
  size_t take = 64 - have < *size ? 64 - have : *size;
  memcpy(hash->pending + have, *input, take);
  hash->bytes += take;
  *input += take;
  *size -= take;
  if (filled(hash) == 0) one(hash, hash->pending, 1);
}

static void keep_rest(struct salvor_sha256 *hash, const uint8_t *input, size_t size) {
  if (size == 0) return;
  memcpy(hash->pending + filled(hash), input, size);
  hash->bytes += size;
}

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

static const uint32_t k[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

int salvor_sha256_pairs(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & 1u << 29)) return 0;
  // SSSE3 and SSE4.1, for the shuffles.
  return __get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 9) && (c & 1u << 19);
}

#define SHA __attribute__((target("sha,sse4.1,ssse3")))

// The state as the instructions want it: ABEF and CDGH.
SHA static inline void load(const uint32_t *state, __m128i *s0, __m128i *s1) {
  __m128i low = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xb1);
  __m128i high = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1b);
  *s0 = _mm_alignr_epi8(low, high, 8);
  *s1 = _mm_blend_epi16(high, low, 0xf0);
}

SHA static inline void store(uint32_t *state, __m128i s0, __m128i s1) {
  __m128i low = _mm_shuffle_epi32(s0, 0x1b);
  __m128i high = _mm_shuffle_epi32(s1, 0xb1);
  _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(low, high, 0xf0));
  _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(high, low, 8));
}

// Source: Intel SHA Extensions, 2013; the order of the message schedule is the one given there.
SHA static void two(uint32_t *a_state, const uint8_t *a, uint32_t *b_state, const uint8_t *b, size_t blocks) {
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bll, 0x0405060700010203ll);
  __m128i a0, a1, b0, b1, m[4], n[4];
  load(a_state, &a0, &a1);
  load(b_state, &b0, &b1);
  for (; blocks > 0; blocks--, a += 64, b += 64) {
    const __m128i a0_before = a0, a1_before = a1, b0_before = b0, b1_before = b1;
#pragma clang loop unroll(full)
    for (int i = 0; i < 16; i++) {
      const int now = i & 3, next = (i + 1) & 3, last = (i + 3) & 3;
      if (i < 4) {
        m[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(a + 16 * i)), swap);
        n[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(b + 16 * i)), swap);
      }
      const __m128i constants = _mm_load_si128((const __m128i *)(k + 4 * i));
      __m128i x = _mm_add_epi32(m[now], constants);
      __m128i y = _mm_add_epi32(n[now], constants);
      a1 = _mm_sha256rnds2_epu32(a1, a0, x);
      b1 = _mm_sha256rnds2_epu32(b1, b0, y);
      if (i >= 3 && i < 15) {
        m[next] = _mm_add_epi32(m[next], _mm_alignr_epi8(m[now], m[last], 4));
        n[next] = _mm_add_epi32(n[next], _mm_alignr_epi8(n[now], n[last], 4));
        m[next] = _mm_sha256msg2_epu32(m[next], m[now]);
        n[next] = _mm_sha256msg2_epu32(n[next], n[now]);
      }
      a0 = _mm_sha256rnds2_epu32(a0, a1, _mm_shuffle_epi32(x, 0x0e));
      b0 = _mm_sha256rnds2_epu32(b0, b1, _mm_shuffle_epi32(y, 0x0e));
      if (i >= 1 && i < 13) {
        m[last] = _mm_sha256msg1_epu32(m[last], m[now]);
        n[last] = _mm_sha256msg1_epu32(n[last], n[now]);
      }
    }
    a0 = _mm_add_epi32(a0, a0_before);
    a1 = _mm_add_epi32(a1, a1_before);
    b0 = _mm_add_epi32(b0, b0_before);
    b1 = _mm_add_epi32(b1, b1_before);
  }
  store(a_state, a0, a1);
  store(b_state, b0, b1);
}
#else
int salvor_sha256_pairs(void) { return 0; }
static void two(uint32_t *a_state, const uint8_t *a, uint32_t *b_state, const uint8_t *b, size_t blocks) {
  (void)a_state, (void)a, (void)b_state, (void)b, (void)blocks;
}
#endif

void salvor_sha256_add(struct salvor_sha256 *hash, const void *input, size_t size) {
  const uint8_t *bytes = input;
  if (size == 0) return;
  top_up(hash, &bytes, &size);
  one(hash, bytes, size / 64);
  hash->bytes += size / 64 * 64;
  keep_rest(hash, bytes + size / 64 * 64, size % 64);
}

void salvor_sha256_add_two(struct salvor_sha256 *a, const void *a_input, size_t a_size, struct salvor_sha256 *b,
                           const void *b_input, size_t b_size, int in_pairs) {
  const uint8_t *x = a_input, *y = b_input;
  if (in_pairs && a_size >= 128 && b_size >= 128) {
    top_up(a, &x, &a_size);
    top_up(b, &y, &b_size);
    size_t blocks = (a_size < b_size ? a_size : b_size) / 64;
    two(a->state, x, b->state, y, blocks);
    a->bytes += blocks * 64;
    b->bytes += blocks * 64;
    x += blocks * 64;
    y += blocks * 64;
    a_size -= blocks * 64;
    b_size -= blocks * 64;
  }
  salvor_sha256_add(a, x, a_size);
  salvor_sha256_add(b, y, b_size);
}

void salvor_sha256_end(struct salvor_sha256 *hash, uint8_t *digest) {
  const uint64_t bits = hash->bytes * 8;
  uint8_t tail[72] = {0x80};
  const size_t zeros = (119 - filled(hash)) % 64;
  for (int i = 0; i < 8; i++) tail[1 + zeros + i] = (uint8_t)(bits >> (56 - 8 * i));
  salvor_sha256_add(hash, tail, 9 + zeros);
  for (int i = 0; i < 32; i++) digest[i] = (uint8_t)(hash->state[i / 4] >> (24 - 8 * (i % 4)));
}
