// Vectors of the instruction set that this translation unit is compiled for, through the vector
// extensions of GCC and Clang: the same source gives AVX-512, AVX2, SSE2 and NEON code.
// No standard library templates here: an inline function compiled for AVX-512 must not be shared
// with the baseline code by the linker.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define PW_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define PW_VECTOR_BYTES 32
#else
#define PW_VECTOR_BYTES 16
#endif

#define PW_INLINE static inline __attribute__((always_inline))

namespace pw {
namespace PW_ISA {

template <class T>
struct Simd;

template <>
struct Simd<float> {
  static constexpr int width = PW_VECTOR_BYTES / 4;
  typedef float V __attribute__((vector_size(PW_VECTOR_BYTES)));
  typedef int32_t Mask __attribute__((vector_size(PW_VECTOR_BYTES)));  // lanes as wide as V's, for shuffles
  typedef int32_t I __attribute__((vector_size(PW_VECTOR_BYTES)));     // 32-bit lanes beside V
};

template <>
struct Simd<double> {
  static constexpr int width = PW_VECTOR_BYTES / 8;
  typedef double V __attribute__((vector_size(PW_VECTOR_BYTES)));
  typedef int64_t Mask __attribute__((vector_size(PW_VECTOR_BYTES)));
  typedef int32_t I __attribute__((vector_size(PW_VECTOR_BYTES / 2)));
};

template <class V, class E>
PW_INLINE V load(const E* p) {
  V v;
  memcpy(&v, p, sizeof(V));
  return v;
}

template <class V, class E>
PW_INLINE void store(E* p, V v) {
  memcpy(p, &v, sizeof(V));
}

template <class T>
PW_INLINE typename Simd<T>::V splat(T x) {
  return x - typename Simd<T>::V{};
}

template <class T>
PW_INLINE T sum_lanes(typename Simd<T>::V v) {
  typedef T Half __attribute__((vector_size(PW_VECTOR_BYTES / 2)));
  T lanes[Simd<T>::width];
  store(lanes, v);
  const Half sum = load<Half>(lanes) + load<Half>(lanes + Simd<T>::width / 2);
  T total = 0;
  for (int i = 0; i < Simd<T>::width / 2; ++i) total += sum[i];
  return total;
}

// a where a > b, else b: b for a NaN in a. Then the reverse, and rounding down. The vector extensions
// have no operators for these that every compiler turns into the one instruction that there is.
PW_INLINE Simd<float>::V floor_of(Simd<float>::V v) {
  typedef Simd<float>::V V;
#if defined(__AVX512F__)
  return (V)_mm512_maskz_roundscale_ps(0xffff, (__m512)v,
                                        _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  return (V)_mm256_floor_ps((__m256)v);
#else
  const V whole = __builtin_convertvector(__builtin_convertvector(v, Simd<float>::I), V);
  return whole + __builtin_convertvector(whole > v, V);  // -1 where truncation went up
#endif
}

PW_INLINE Simd<double>::V floor_of(Simd<double>::V v) {
  typedef Simd<double>::V V;
#if defined(__AVX512F__)
  return (V)_mm512_maskz_roundscale_pd(0xff, (__m512d)v,
                                        _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  return (V)_mm256_floor_pd((__m256d)v);
#else
  const V whole = __builtin_convertvector(__builtin_convertvector(v, Simd<double>::I), V);
  return whole + __builtin_convertvector(whole > v, V);
#endif
}

template <class V>
PW_INLINE V at_least(V v, V low) {
  return v > low ? v : low;
}

template <class V>
PW_INLINE V at_most(V v, V high) {
  return v < high ? v : high;
}

#if defined(__AVX512F__)
PW_INLINE Simd<float>::V at_least(Simd<float>::V v, Simd<float>::V low) {
  return (Simd<float>::V)_mm512_maskz_max_ps(0xffff, (__m512)v, (__m512)low);
}
PW_INLINE Simd<float>::V at_most(Simd<float>::V v, Simd<float>::V high) {
  return (Simd<float>::V)_mm512_maskz_min_ps(0xffff, (__m512)v, (__m512)high);
}
#endif

// Splitting pairs (a0 b0 a1 b1 ...) into (a0 a1 ...) and (b0 b1 ...), and joining them again.
#if defined(__clang__)
#define PW_SHUFFLE(M, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PW_SHUFFLE(M, a, b, ...) __builtin_shuffle(a, b, M{__VA_ARGS__})
#endif

template <int width>
struct Pairs;

#define PW_DEFINE_PAIRS(WIDTH, EVEN, ODD, LOW, HIGH)                               \
  template <>                                                                      \
  struct Pairs<WIDTH> {                                                            \
    template <class M, class V>                                                    \
    PW_INLINE void split(V first, V second, V& even, V& odd) {                     \
      even = PW_SHUFFLE(M, first, second, EVEN);                                   \
      odd = PW_SHUFFLE(M, first, second, ODD);                                     \
    }                                                                              \
    template <class M, class V>                                                    \
    PW_INLINE void join(V even, V odd, V& first, V& second) {                      \
      first = PW_SHUFFLE(M, even, odd, LOW);                                       \
      second = PW_SHUFFLE(M, even, odd, HIGH);                                     \
    }                                                                              \
  };
#define PW_LIST(...) __VA_ARGS__
PW_DEFINE_PAIRS(2, PW_LIST(0, 2), PW_LIST(1, 3), PW_LIST(0, 2), PW_LIST(1, 3))
PW_DEFINE_PAIRS(4, PW_LIST(0, 2, 4, 6), PW_LIST(1, 3, 5, 7), PW_LIST(0, 4, 1, 5),
                PW_LIST(2, 6, 3, 7))
PW_DEFINE_PAIRS(8, PW_LIST(0, 2, 4, 6, 8, 10, 12, 14), PW_LIST(1, 3, 5, 7, 9, 11, 13, 15),
                PW_LIST(0, 8, 1, 9, 2, 10, 3, 11), PW_LIST(4, 12, 5, 13, 6, 14, 7, 15))
PW_DEFINE_PAIRS(16, PW_LIST(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
                PW_LIST(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31),
                PW_LIST(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
                PW_LIST(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31))

// Element types in memory and their conversion; arithmetic is in float or double only.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

PW_INLINE uint32_t bits_of(float x) {
  uint32_t b;
  memcpy(&b, &x, 4);
  return b;
}

PW_INLINE float float_of(uint32_t b) {
  float x;
  memcpy(&x, &b, 4);
  return x;
}

PW_INLINE float widen(float x) { return x; }
PW_INLINE double widen(double x) { return x; }
PW_INLINE float widen(BFloat16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }
PW_INLINE float widen(Float16 x) {
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fff) << 13;
  // Multiplying by 2^112 moves the exponent bias from 15 to 127 and normalises subnormals.
  const float finite = float_of(magnitude) * 0x1p112f;
  const uint32_t special = magnitude | 0x7f800000u;  // infinity or NaN, payload kept
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16;
  return float_of(sign | (magnitude >= (0x7c00u << 13) ? special : bits_of(finite)));
}

PW_INLINE void narrow(float x, float& out) { out = x; }
PW_INLINE void narrow(double x, double& out) { out = x; }
PW_INLINE void narrow(float x, BFloat16& out) {
  const uint32_t b = bits_of(x);
  const uint32_t rounded = b + 0x7fffu + ((b >> 16) & 1u);  // to nearest, ties to even
  const bool nan = (b & 0x7fffffffu) > 0x7f800000u;
  out.bits = static_cast<uint16_t>((nan ? (b | 0x400000u) : rounded) >> 16);
}
PW_INLINE void narrow(float x, Float16& out) {
  const uint32_t b = bits_of(x);
  const uint32_t magnitude = b & 0x7fffffffu;
  // Normal results: rebias the exponent, round to nearest, ties to even.
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Subnormal results: adding 0.5 aligns the mantissa so that the addition does the rounding.
  const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  const uint32_t finite = magnitude < (113u << 23) ? subnormal : normal;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t value = magnitude >= 0x477ff000u ? special : finite;  // from 65520 on: infinity
  out.bits = static_cast<uint16_t>(value | ((b >> 16) & 0x8000u));
}

}  // namespace PW_ISA
}  // namespace pw
