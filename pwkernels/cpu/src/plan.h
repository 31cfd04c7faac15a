// What forward and backward share: sizes, padded planes, packed weights, runs of pixels.
#pragma once

#include <stdlib.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "simd.h"
#include "warp.h"

namespace pw {
namespace PW_ISA {

// Each map is copied into a plane with a zero border of two pixels: corners of a clamped cell are then
// always inside the plane, and no bounds test is left in the loops over samples.
constexpr int kBorder = 2;
// Taps that are sampled before their channel mix runs; nine is a whole 3x3 kernel, and nine samples
// and the accumulators of the mix fit in the registers.
constexpr int kTapBlock = 9;
// Fills the lanes past the end of a run: outside any map.
constexpr float kFar = 1073741824.0f;  // 2^30

PW_INLINE int64_t round_up(int64_t x, int64_t multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

PW_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
PW_INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

// Cache-line aligned memory of one call.
class Buffer {
 public:
  explicit Buffer(int64_t bytes) {
    void* p = nullptr;
    if (posix_memalign(&p, 64, static_cast<size_t>(max_of(bytes, 64))) == 0) data_ = static_cast<char*>(p);
  }
  ~Buffer() { free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  bool ok() const { return data_ != nullptr; }
  template <class T>
  T* at(int64_t byte) const {
    return reinterpret_cast<T*>(data_ + byte);
  }

 private:
  char* data_ = nullptr;
};

// Hands out aligned pieces of a thread's scratch; with a null base it only counts the bytes.
class Carver {
 public:
  explicit Carver(char* base) : base_(base) {}
  template <class T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(base_ + used_);
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

// The pixels of a run: consecutive outputs, row after row; `padded` is whole vectors.
template <class T>
struct Run {
  int64_t start;
  int count, padded;
  T* base_y;  // oy * stride_h, and likewise for x: add the tap's displacement
  T* base_x;
};

template <class T>
struct Plan {
  static constexpr int width = Simd<T>::width;
  // Runs are padded to whole pairs of vectors, and to the eight parts of `scatter_corners`.
  static constexpr int run_step = 2 * width < 8 ? 8 : 2 * width;

  const WarpArgs& a;
  int64_t taps, pixels, row, plane, group_channels, weight_channels, mix_outputs, weight_count;
  int run_pixels, run_padded;
  const T* packed_weight = nullptr;  // [D][G][K][C / G][C_out / groups]

  explicit Plan(const WarpArgs& args)
      : a(args),
        taps(a.kernel_h * a.kernel_w),
        pixels(a.out_height * a.out_width),
        row(a.width + 2 * kBorder),
        plane(round_up((a.height + 2 * kBorder) * row, 16)),
        group_channels(a.channels / a.offset_groups),
        weight_channels(a.channels / a.groups),
        mix_outputs(a.out_channels / a.groups),
        weight_count(a.dilation_count * a.channels * taps * mix_outputs) {
    // As long as one value per output stays in L1 beside the samples.
    const int64_t wanted_run = max_of(64, min_of(256, 4608 / a.out_channels / 32 * 32));
    run_pixels = static_cast<int>(max_of(1, min_of(wanted_run, pixels)));
    run_padded = static_cast<int>(round_up(run_pixels, run_step));
  }

  int64_t runs() const { return (pixels + run_pixels - 1) / run_pixels; }
  int64_t frames() const { return a.windows * a.frames_per_window; }

  T frame_weight(int64_t n) const {
    return a.frame_weights ? static_cast<const T*>(a.frame_weights)[n % a.frames_per_window] : T(1);
  }

  int64_t packed_index(int64_t d, int64_t g, int64_t k, int64_t channel_in_group) const {
    return (((d * a.offset_groups + g) * taps + k) * group_channels + channel_in_group) * mix_outputs;
  }

  // Visits (index in the caller's weight layout, index in the packed one).
  template <class Visit>
  void each_weight(Visit&& visit) const {
    for (int64_t d = 0; d < a.dilation_count; ++d)
      for (int64_t c = 0; c < a.channels; ++c)
        for (int64_t o = 0; o < mix_outputs; ++o)
          for (int64_t k = 0; k < taps; ++k) {
            const int64_t out = c / weight_channels * mix_outputs + o;
            visit(((d * a.out_channels + out) * weight_channels + c % weight_channels) * taps + k,
                  packed_index(d, c / group_channels, k, c % group_channels) + o);
          }
  }

  // Copies the caller's weight into `packed`, and uses it from there.
  void pack_weight(T* packed) {
    const T* given = static_cast<const T*>(a.weight);
    each_weight([&](int64_t from, int64_t to) { packed[to] = given[from]; });
    packed_weight = packed;
  }

  void start_run(Run<T>& run, int64_t index) const {
    run.start = index * run_pixels;
    run.count = static_cast<int>(min_of(run_pixels, pixels - run.start));
    run.padded = static_cast<int>(round_up(run.count, run_step));
    int64_t y = run.start / a.out_width, x = run.start % a.out_width;
    for (int p = 0; p < run.padded; ++p) {
      run.base_y[p] = static_cast<T>(y * a.stride_h);
      run.base_x[p] = static_cast<T>(x * a.stride_w);
      if (p + 1 < run.count && ++x == a.out_width) x = 0, ++y;
    }
  }
};

template <class T, class E>
PW_INLINE void widen_into(const E* source, int64_t step, int64_t count, T scale, T* out) {
  if (step == 1)
    for (int64_t i = 0; i < count; ++i) out[i] = scale * widen(source[i]);
  else
    for (int64_t i = 0; i < count; ++i) out[i] = scale * widen(source[i * step]);
}

// `count` elements of a tensor in memory, as T; `step` in elements.
PW_INLINE void read_as(const void* data, DType dtype, int64_t at, int64_t step, int64_t count,
                       float scale, float* out) {
  if (dtype == kFloat32)
    widen_into(static_cast<const float*>(data) + at, step, count, scale, out);
  else if (dtype == kBFloat16)
    widen_into(static_cast<const BFloat16*>(data) + at, step, count, scale, out);
  else
    widen_into(static_cast<const Float16*>(data) + at, step, count, scale, out);
}
PW_INLINE void read_as(const void* data, DType, int64_t at, int64_t step, int64_t count,
                       double scale, double* out) {
  widen_into(static_cast<const double*>(data) + at, step, count, scale, out);
}

template <class T, class E>
PW_INLINE void narrow_into(const T* source, int64_t count, E* out) {
  for (int64_t i = 0; i < count; ++i) narrow(source[i], out[i]);
}

PW_INLINE void write_as(const float* source, int64_t count, DType dtype, void* data, int64_t at) {
  if (dtype == kFloat32)
    memcpy(static_cast<float*>(data) + at, source, static_cast<size_t>(count) * sizeof(float));
  else if (dtype == kBFloat16)
    narrow_into(source, count, static_cast<BFloat16*>(data) + at);
  else
    narrow_into(source, count, static_cast<Float16*>(data) + at);
}
PW_INLINE void write_as(const double* source, int64_t count, DType, void* data, int64_t at) {
  memcpy(static_cast<double*>(data) + at, source, static_cast<size_t>(count) * sizeof(double));
}

PW_INLINE DType native_dtype(float) { return kFloat32; }
PW_INLINE DType native_dtype(double) { return kFloat64; }

// A run of one plane of offsets or masks as T: in place where possible, else copied into `buffer` with
// `fill` in the lanes past the end.
template <class T>
PW_INLINE const T* fetch_run(const Tensor4& tensor, DType dtype, int64_t n, int64_t channel,
                             const Run<T>& run, T fill, T* buffer) {
  const int64_t at = n * tensor.stride_n + channel * tensor.stride_c + run.start;
  if (dtype == native_dtype(T()) && run.count == run.padded)
    return static_cast<const T*>(tensor.data) + at;
  read_as(tensor.data, dtype, at, 1, run.count, T(1), buffer);
  for (int p = run.count; p < run.padded; ++p) buffer[p] = fill;
  return buffer;
}

// Map (n, c) times `scale`, with its zero border.
template <class T>
static void pack_plane(const Plan<T>& plan, int64_t n, int64_t c, T scale, T* plane) {
  const WarpArgs& a = plan.a;
  memset(plane, 0, static_cast<size_t>(plan.plane) * sizeof(T));
  for (int64_t y = 0; y < a.height; ++y)
    read_as(a.input.data, a.input_dtype,
            n * a.input.stride_n + c * a.input.stride_c + y * a.input.stride_h, a.input.stride_w,
            a.width, scale, plane + (y + kBorder) * plan.row + kBorder);
}

// Cells and fractions of one tap for a run. The cell is decided exactly: integer position plus the
// floor of the offset, never by the rounded sum. NaN, infinite and far offsets end in the border.
template <class T>
struct Coordinates {
  int32_t* idx;   // upper left corner of the cell, in the padded plane
  T* fraction_y;
  T* fraction_x;
};

// `base` is the integer position of the tap, counted from the first pixel of the border. The
// position is clamped to the border by clamping the offset, which is exact.
template <class T>
PW_INLINE typename Simd<T>::V axis_cell(typename Simd<T>::V offset, typename Simd<T>::V base,
                                        typename Simd<T>::V last, typename Simd<T>::V& fraction) {
  typedef typename Simd<T>::V V;
  const V clamped = at_most(at_least(offset, -base), last - base);
  const V whole = floor_of(clamped);
  fraction = clamped - whole;
  return whole + base;
}

template <class T>
PW_INLINE void locate(const Plan<T>& plan, const Run<T>& run, const T* dy, const T* dx, int64_t d,
                      int64_t k, const Coordinates<T>& out) {
  typedef typename Simd<T>::V V;
  typedef typename Simd<T>::I I;
  const WarpArgs& a = plan.a;
  const int64_t shift_y = k / a.kernel_w * a.dilations[2 * d] - a.paddings[2 * d] + kBorder;
  const int64_t shift_x = k % a.kernel_w * a.dilations[2 * d + 1] - a.paddings[2 * d + 1] + kBorder;
  const V tap_y = splat<T>(static_cast<T>(shift_y)), tap_x = splat<T>(static_cast<T>(shift_x));
  const V last_y = splat<T>(static_cast<T>(a.height + kBorder));
  const V last_x = splat<T>(static_cast<T>(a.width + kBorder));
  const I row = I{} + static_cast<int32_t>(plan.row);
  const T *base_y = run.base_y, *base_x = run.base_x;
  int32_t* idx = out.idx;
  T *fraction_y = out.fraction_y, *fraction_x = out.fraction_x;
  const int padded = run.padded;
  for (int p = 0; p < padded; p += Simd<T>::width) {
    V fy, fx;
    const V y = axis_cell<T>(load<V>(dy + p), load<V>(base_y + p) + tap_y, last_y, fy);
    const V x = axis_cell<T>(load<V>(dx + p), load<V>(base_x + p) + tap_x, last_x, fx);
    store(idx + p, __builtin_convertvector(y, I) * row + __builtin_convertvector(x, I));
    store(fraction_y + p, fy);
    store(fraction_x + p, fx);
  }
}

// Asks for huge pages for memory that is about to be written for the first time: the gradients of the
// offsets are hundreds of megabytes, and taking them in small pages costs more than computing them.
PW_INLINE void advise_huge_pages(void* data, int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t page = uintptr_t(2) << 20;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / page * page;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

// Asks for a run of a plane before it is needed. The planes of the taps lie far apart, so that no
// run is long enough for the processor to notice by itself.
template <class T>
PW_INLINE void prefetch_run(const Tensor4& tensor, DType dtype, int64_t n, int64_t channel,
                            const Run<T>& run) {
  const int64_t size = dtype == kFloat64 ? 8 : dtype == kFloat32 ? 4 : 2;
  const char* first = static_cast<const char*>(tensor.data) +
                      (n * tensor.stride_n + channel * tensor.stride_c + run.start) * size;
  for (int64_t byte = 0; byte < run.count * size; byte += 64) __builtin_prefetch(first + byte);
}

// Prefetches what `fetch_run` will read for tap k of (g, d); a k past the last tap is one of the next
// dilation, and after the last dilation one of the next group.
template <class T>
PW_INLINE void prefetch_tap(const Plan<T>& plan, int64_t n, int64_t g, int64_t d, int64_t k,
                            const Run<T>& run) {
  const WarpArgs& a = plan.a;
  if (k >= plan.taps) k -= plan.taps, ++d;
  if (d >= a.dilation_count) d = 0, ++g;
  if (k >= plan.taps || g >= a.offset_groups) return;
  const int64_t channel = g * plan.taps + k;
  prefetch_run(a.offsets[d], a.offset_dtype, n, 2 * channel, run);
  prefetch_run(a.offsets[d], a.offset_dtype, n, 2 * channel + 1, run);
  if (a.masks) prefetch_run(a.masks[d], a.mask_dtype, n, channel, run);
}

// The corners of every sample of a run, (upper left, upper right, lower left, lower right). The two
// corners of a row are neighbours, so each sample is two loads of a pair. Scalar on purpose: pair
// loads beat the gather instructions of current processors. Four samples at a time keep more loads
// in flight; `count` is a multiple of four.
template <class T>
PW_INLINE void gather_corners(const T* plane, int64_t row, const int32_t* idx, int count, T* corners) {
  const T* below = plane + row;
  for (int p = 0; p < count; p += 4) {
    const int64_t at[4] = {idx[p], idx[p + 1], idx[p + 2], idx[p + 3]};
    T* out = corners + 4 * p;
    memcpy(out, plane + at[0], 2 * sizeof(T));
    memcpy(out + 2, below + at[0], 2 * sizeof(T));
    memcpy(out + 4, plane + at[1], 2 * sizeof(T));
    memcpy(out + 6, below + at[1], 2 * sizeof(T));
    memcpy(out + 8, plane + at[2], 2 * sizeof(T));
    memcpy(out + 10, below + at[2], 2 * sizeof(T));
    memcpy(out + 12, plane + at[3], 2 * sizeof(T));
    memcpy(out + 14, below + at[3], 2 * sizeof(T));
  }
}

// Four vectors of corners, sorted by kind.
template <class T>
struct Corners {
  typedef typename Simd<T>::V V;
  typedef typename Simd<T>::Mask M;
  typedef Pairs<Simd<T>::width> P;
  V u0, u1, l0, l1;

  // Weighted sums and no differences, which would turn an infinite corner into NaN.
  __attribute__((always_inline)) inline V interpolate(V fy, V fx) const {
    const V gy = T(1) - fy, gx = T(1) - fx;
    return gx * (gy * u0 + fy * l0) + fx * (gy * u1 + fy * l1);
  }

  PW_INLINE Corners read(const T* corners) {
    constexpr int w = Simd<T>::width;
    V left_a, right_a, left_b, right_b;
    P::template split<M>(load<V>(corners), load<V>(corners + w), left_a, right_a);
    P::template split<M>(load<V>(corners + 2 * w), load<V>(corners + 3 * w), left_b, right_b);
    Corners c;
    P::template split<M>(left_a, left_b, c.u0, c.l0);
    P::template split<M>(right_a, right_b, c.u1, c.l1);
    return c;
  }

  __attribute__((always_inline)) inline void write(T* corners) const {
    constexpr int w = Simd<T>::width;
    V left_a, right_a, left_b, right_b, out[4];
    P::template join<M>(u0, l0, left_a, left_b);
    P::template join<M>(u1, l1, right_a, right_b);
    P::template join<M>(left_a, right_a, out[0], out[1]);
    P::template join<M>(left_b, right_b, out[2], out[3]);
    for (int v = 0; v < 4; ++v) store(corners + v * w, out[v]);
  }
};

}  // namespace PW_ISA
}  // namespace pw
