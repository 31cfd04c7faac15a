// What forward and backward share: sizes, padded planes, packed weights, runs of pixels.
#pragma once

#include <stdlib.h>

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
// Offsets are clamped to this before the conversion to integers.
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
struct Run {
  int64_t start;
  int count, padded;
  int32_t* base_y;  // oy * stride_h, and likewise for x: add the tap's displacement
  int32_t* base_x;
};

template <class T>
struct Plan {
  static constexpr int width = Simd<T>::width;

  const WarpArgs& a;
  int64_t taps, pixels, row, plane, group_channels, weight_channels, mix_outputs, weight_count;
  int run_pixels, run_padded;
  const T* packed_weight = nullptr;  // [D][G][K][C / G][C_out / groups]

  Plan(const WarpArgs& args, int wanted_run)
      : a(args),
        taps(a.kernel_h * a.kernel_w),
        pixels(a.out_height * a.out_width),
        row(a.width + 2 * kBorder),
        plane(round_up((a.height + 2 * kBorder) * row, 16)),
        group_channels(a.channels / a.offset_groups),
        weight_channels(a.channels / a.groups),
        mix_outputs(a.out_channels / a.groups),
        weight_count(a.dilation_count * a.channels * taps * mix_outputs) {
    run_pixels = static_cast<int>(min_of(wanted_run, pixels));
    run_padded = static_cast<int>(round_up(run_pixels, 2 * width));
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

  void start_run(Run& run, int64_t index) const {
    run.start = index * run_pixels;
    run.count = static_cast<int>(min_of(run_pixels, pixels - run.start));
    run.padded = static_cast<int>(round_up(run.count, 2 * width));
    int64_t y = run.start / a.out_width, x = run.start % a.out_width;
    for (int p = 0; p < run.padded; ++p) {
      run.base_y[p] = static_cast<int32_t>(y * a.stride_h);
      run.base_x[p] = static_cast<int32_t>(x * a.stride_w);
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
                             const Run& run, T fill, T* buffer) {
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

template <class T>
PW_INLINE void axis_cells(const T* offset, const int32_t* base, int32_t shift, int32_t last,
                          typename Simd<T>::I& cell, typename Simd<T>::V& fraction) {
  typedef typename Simd<T>::V V;
  typedef typename Simd<T>::I I;
  const V far = splat<T>(kFar);
  V o = load<V>(offset);
  o = o > -far ? o : -far;  // false for NaN
  o = o < far ? o : far;
  I whole = __builtin_convertvector(o, I);
  V truncated = __builtin_convertvector(whole, V);
  whole += __builtin_convertvector(truncated > o, I);  // -1 where truncation went up
  fraction = o - __builtin_convertvector(whole, V);
  I y = whole + load<I>(base) + shift;
  const I low = I{} - kBorder, high = I{} + last;
  y = y > low ? y : low;
  cell = y < high ? y : high;
}

template <class T>
PW_INLINE void locate(const Plan<T>& plan, const Run& run, const T* dy, const T* dx, int64_t d,
                      int64_t k, const Coordinates<T>& out) {
  typedef typename Simd<T>::V V;
  typedef typename Simd<T>::I I;
  const WarpArgs& a = plan.a;
  const int32_t shift_y =
      static_cast<int32_t>(k / a.kernel_w * a.dilations[2 * d] - a.paddings[2 * d]);
  const int32_t shift_x =
      static_cast<int32_t>(k % a.kernel_w * a.dilations[2 * d + 1] - a.paddings[2 * d + 1]);
  const int32_t row = static_cast<int32_t>(plan.row);
  const int32_t last_y = static_cast<int32_t>(a.height), last_x = static_cast<int32_t>(a.width);
  for (int p = 0; p < run.padded; p += Simd<T>::width) {
    I y, x;
    V fy, fx;
    axis_cells<T>(dy + p, run.base_y + p, shift_y, last_y, y, fy);
    axis_cells<T>(dx + p, run.base_x + p, shift_x, last_x, x, fx);
    store(out.idx + p, (y + kBorder) * row + (x + kBorder));
    store(out.fraction_y + p, fy);
    store(out.fraction_x + p, fx);
  }
}

// The two corners of a row are neighbours, so each sample is two loads of a pair. Scalar on purpose:
// pair loads beat the gather instructions of current processors.
template <class T>
PW_INLINE void gather_pairs(const T* plane, int64_t row, const int32_t* idx, int count, T* upper,
                            T* lower) {
  for (int p = 0; p < count; ++p) {
    const T* corner = plane + idx[p];
    memcpy(upper + 2 * p, corner, 2 * sizeof(T));
    memcpy(lower + 2 * p, corner + row, 2 * sizeof(T));
  }
}

}  // namespace PW_ISA
}  // namespace pw
