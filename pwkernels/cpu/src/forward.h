// Forward: for each run of pixels, sample nine taps into a buffer that stays in L1, then mix channels.
#pragma once

#include "plan.h"
#include "threads.h"

namespace pw {
namespace PW_ISA {

// accumulator[o][p] += sum_r weight[r][o] * samples[r][p] for `rows` rows held in registers.
template <class T, int rows>
static void mix_rows(const T* samples, const T* weight, int64_t outputs, int stride, int padded,
                     T* accumulator) {
  typedef typename Simd<T>::V V;
  constexpr int width = Simd<T>::width;
  // Two vectors of pixels share each weight where there are registers for it.
  constexpr int step = PW_VECTOR_BYTES == 64 ? 2 : 1;
  for (int p = 0; p < padded; p += step * width) {
    V s[rows][step];
    for (int r = 0; r < rows; ++r)
      for (int v = 0; v < step; ++v) s[r][v] = load<V>(samples + r * stride + p + v * width);
    for (int64_t o = 0; o < outputs; ++o) {
      T* out = accumulator + o * stride + p;
      V sum[step];
      for (int v = 0; v < step; ++v) sum[v] = load<V>(out + v * width);
      for (int r = 0; r < rows; ++r)
        for (int v = 0; v < step; ++v) sum[v] += weight[r * outputs + o] * s[r][v];
      for (int v = 0; v < step; ++v) store(out + v * width, sum[v]);
    }
  }
}

template <class T>
static void mix(int rows, const T* samples, const T* weight, int64_t outputs, int stride, int padded,
                T* accumulator) {
  switch (rows) {
#define PW_CASE(R) \
  case R:          \
    return mix_rows<T, R>(samples, weight, outputs, stride, padded, accumulator);
    PW_CASE(1) PW_CASE(2) PW_CASE(3) PW_CASE(4) PW_CASE(5) PW_CASE(6) PW_CASE(7) PW_CASE(8) PW_CASE(9)
#undef PW_CASE
    default:
      return;
  }
}

template <class T>
PW_INLINE void blend(const T* corners, const Coordinates<T>& at, const T* mask, int padded, T* samples) {
  typedef typename Simd<T>::V V;
  const T *fraction_y = at.fraction_y, *fraction_x = at.fraction_x;
  for (int p = 0; p < padded; p += Simd<T>::width) {
    const V fy = load<V>(fraction_y + p), fx = load<V>(fraction_x + p);
    const Corners<T> c = Corners<T>::read(corners + 4 * p);
    V sample = c.interpolate(fy, fx);
    if (mask) sample *= load<V>(mask + p);
    store(samples + p, sample);
  }
}

template <class T>
struct ForwardScratch {
  Run<T> run;
  Coordinates<T> at;
  T *dy, *dx, *mask, *corners, *samples, *accumulator;

  ForwardScratch(const Plan<T>& plan, Carver& carver) {
    const int64_t n = plan.run_padded;
    run.base_y = carver.take<T>(n);
    run.base_x = carver.take<T>(n);
    at.idx = carver.take<int32_t>(n);
    at.fraction_y = carver.take<T>(n);
    at.fraction_x = carver.take<T>(n);
    dy = carver.take<T>(n);
    dx = carver.take<T>(n);
    mask = carver.take<T>(n);
    corners = carver.take<T>(4 * n);
    samples = carver.take<T>(kTapBlock * n);
    accumulator = carver.take<T>(plan.a.out_channels * n);
  }
};

// What the samples of one tap need, for the pixels of a run; mask null for none.
template <class T>
struct Tap {
  const T *dy, *dx, *mask;
};

// Adds offset group g of dilation d to the accumulators of a run; `tap_of(k)` gives the taps.
template <class T, class TapOf>
PW_INLINE void warp_group(const Plan<T>& plan, int64_t g, int64_t d, const T* planes, TapOf&& tap_of,
                          ForwardScratch<T>& s) {
  const int stride = plan.run_padded;
  int rows = 0;
  int64_t first = plan.packed_index(d, g, 0, 0), outputs_of = -1;
  auto flush = [&] {
    mix(rows, s.samples, plan.packed_weight + first, plan.mix_outputs, stride, s.run.padded,
        s.accumulator + outputs_of * plan.mix_outputs * stride);
    first += rows * plan.mix_outputs;
    rows = 0;
  };
  for (int64_t k = 0; k < plan.taps; ++k) {
    const Tap<T> tap = tap_of(k);
    locate(plan, s.run, tap.dy, tap.dx, d, k, s.at);
    for (int64_t c = g * plan.group_channels; c < (g + 1) * plan.group_channels; ++c) {
      const int64_t weight_group = c / plan.weight_channels;
      if (rows == kTapBlock || (rows > 0 && weight_group != outputs_of)) flush();
      outputs_of = weight_group;
      gather_corners(planes + c * plan.plane, plan.row, s.at.idx, s.run.padded, s.corners);
      blend(s.corners, s.at, tap.mask, s.run.padded, s.samples + rows * stride);
      ++rows;
    }
  }
  flush();
}

// Adds frame n (its packed planes given) to the accumulators of a run.
template <class T>
static void warp_run(const Plan<T>& plan, int64_t n, const T* planes, ForwardScratch<T>& s) {
  const WarpArgs& a = plan.a;
  // Groups outermost: all taps of all dilations read the same few planes while they are in the cache.
  for (int64_t g = 0; g < a.offset_groups; ++g)
    for (int64_t d = 0; d < a.dilation_count; ++d)
      warp_group(
          plan, g, d, planes,
          [&](int64_t k) {
            const int64_t channel = g * plan.taps + k;
            const T far = -kFar;
            const T* dy = fetch_run(a.offsets[d], a.offset_dtype, n, 2 * channel, s.run, far, s.dy);
            const T* dx = fetch_run(a.offsets[d], a.offset_dtype, n, 2 * channel + 1, s.run, far, s.dx);
            const T* mask =
                a.masks ? fetch_run(a.masks[d], a.mask_dtype, n, channel, s.run, T(0), s.mask) : nullptr;
            prefetch_tap(plan, n, g, d, k + 2, s.run);
            return Tap<T>{dy, dx, mask};
          },
          s);
}

// Sets the accumulators of a run to the bias, and writes them to window b of the output.
template <class T>
static void start_accumulators(const Plan<T>& plan, ForwardScratch<T>& s) {
  for (int64_t o = 0; o < plan.a.out_channels; ++o) {
    const T bias = plan.a.bias ? static_cast<const T*>(plan.a.bias)[o] : T(0);
    for (int p = 0; p < s.run.padded; ++p) s.accumulator[o * plan.run_padded + p] = bias;
  }
}
template <class T>
static void write_accumulators(const Plan<T>& plan, int64_t b, const ForwardScratch<T>& s) {
  for (int64_t o = 0; o < plan.a.out_channels; ++o)
    write_as(s.accumulator + o * plan.run_padded, s.run.count, plan.a.input_dtype, plan.a.output,
             (b * plan.a.out_channels + o) * plan.pixels + s.run.start);
}

// Packs the planes of windows [first, first + windows).
template <class T>
static void pack_windows(const Plan<T>& plan, int64_t first, int64_t windows, T* planes) {
  const WarpArgs& a = plan.a;
  parallel(windows * a.frames_per_window * a.channels, a.num_threads, [&](int64_t task, int) {
    const int64_t n = first * a.frames_per_window + task / a.channels;
    pack_plane(plan, n, task % a.channels, plan.frame_weight(n), planes + task * plan.plane);
  });
}

template <class T>
static Status forward(const WarpArgs& a) {
  Plan<T> plan(a);
  if (plan.pixels == 0 || a.windows == 0) return kOk;

  Buffer weight(plan.weight_count * static_cast<int64_t>(sizeof(T)));
  if (!weight.ok()) return kOutOfMemory;
  plan.pack_weight(weight.at<T>(0));

  // Planes of as many windows as stay in the cache together; memory does not grow with the batch.
  const int64_t window_planes = a.frames_per_window * a.channels;
  const int64_t window_bytes = window_planes * plan.plane * static_cast<int64_t>(sizeof(T));
  const int64_t chunk = min_of(a.windows, max_of(1, (int64_t(4) << 20) / window_bytes));
  Carver size(nullptr);
  ForwardScratch<T>(plan, size);
  Buffer planes(chunk * window_bytes), scratch(size.used() * a.num_threads);
  if (!planes.ok() || !scratch.ok()) return kOutOfMemory;

  for (int64_t first = 0; first < a.windows; first += chunk) {
    const int64_t windows = min_of(chunk, a.windows - first);
    pack_windows(plan, first, windows, planes.at<T>(0));
    parallel(windows * plan.runs(), a.num_threads, [&](int64_t task, int thread) {
      Carver carver(scratch.at<char>(thread * size.used()));
      ForwardScratch<T> s(plan, carver);
      const int64_t window = task / plan.runs(), b = first + window;
      plan.start_run(s.run, task % plan.runs());
      start_accumulators(plan, s);
      for (int64_t t = 0; t < a.frames_per_window; ++t)
        warp_run(plan, b * a.frames_per_window + t,
                 planes.at<T>(0) + (window * a.frames_per_window + t) * a.channels * plan.plane, s);
      write_accumulators(plan, b, s);
    });
  }
  return kOk;
}

}  // namespace PW_ISA
}  // namespace pw
