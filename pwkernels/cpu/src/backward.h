// Backward: one task owns an offset group of a frame, so that nothing is written by two threads and
// the result does not depend on how many threads there are.
#pragma once

#include "plan.h"
#include "threads.h"

namespace pw {
namespace PW_ISA {

// What one task computes: channels [c0, c1) of frame n over runs [run0, run1).
struct Share {
  int64_t n, c0, c1, run0, run1;
  bool samples;  // gradients of offsets, masks and weight
  bool scatter;  // gradient of the input
};

template <class T>
struct BackwardScratch {
  Run<T> run;
  Coordinates<T> at[kTapBlock];
  T *dy, *dx, *mask, *corners, *samples, *columns, *grad_y, *grad_x, *grad_mask, *grad_output;
  T *planes, *grad_planes;

  BackwardScratch(const Plan<T>& plan, const Share& share, Carver& carver) {
    const int64_t channels = share.c1 - share.c0;
    const int64_t n = plan.run_padded;
    run.base_y = carver.take<T>(n);
    run.base_x = carver.take<T>(n);
    for (auto& tap : at) {
      tap.idx = carver.take<int32_t>(n);
      tap.fraction_y = carver.take<T>(n);
      tap.fraction_x = carver.take<T>(n);
    }
    dy = carver.take<T>(n);
    dx = carver.take<T>(n);
    mask = carver.take<T>(kTapBlock * n);
    corners = carver.take<T>(4 * n);
    samples = carver.take<T>(kTapBlock * n);
    columns = carver.take<T>(kTapBlock * n);
    grad_y = carver.take<T>(kTapBlock * n);
    grad_x = carver.take<T>(kTapBlock * n);
    grad_mask = carver.take<T>(kTapBlock * n);
    grad_output = carver.take<T>(plan.a.out_channels * n);
    planes = carver.take<T>(channels * plan.plane);
    grad_planes = carver.take<T>(share.scatter ? channels * plan.plane : 0);
  }
};

// columns[k][p] = sum_o weight[k][o] * grad_output[o][p] for `rows` taps.
template <class T, int rows>
static void transposed_mix_rows(const T* grad_output, const T* weight, int64_t weight_step,
                                int64_t outputs, int stride, int padded, T* columns) {
  typedef typename Simd<T>::V V;
  constexpr int width = Simd<T>::width;
  constexpr int step = PW_VECTOR_BYTES == 64 ? 2 : 1;
  for (int p = 0; p < padded; p += step * width) {
    V sum[rows][step];
    for (int r = 0; r < rows; ++r)
      for (int v = 0; v < step; ++v) sum[r][v] = V{};
    for (int64_t o = 0; o < outputs; ++o) {
      V g[step];
      for (int v = 0; v < step; ++v) g[v] = load<V>(grad_output + o * stride + p + v * width);
      for (int r = 0; r < rows; ++r)
        for (int v = 0; v < step; ++v) sum[r][v] += weight[r * weight_step + o] * g[v];
    }
    for (int r = 0; r < rows; ++r)
      for (int v = 0; v < step; ++v) store(columns + r * stride + p + v * width, sum[r][v]);
  }
}

// grad_weight[k][o] += sum_p samples[k][p] * grad_output[o][p] for `rows` taps.
template <class T, int rows>
static void correlate_rows(const T* samples, const T* grad_output, int64_t outputs, int stride,
                           int padded, int64_t weight_step, T* grad_weight) {
  typedef typename Simd<T>::V V;
  constexpr int width = Simd<T>::width;
  constexpr int block = PW_VECTOR_BYTES == 64 ? 2 : 1;  // outputs at a time, bounded by the registers
  int64_t o = 0;
  for (; o + block <= outputs; o += block) {
    V sum[rows][block];
    for (int r = 0; r < rows; ++r)
      for (int b = 0; b < block; ++b) sum[r][b] = V{};
    for (int p = 0; p < padded; p += width) {
      V g[block];
      for (int b = 0; b < block; ++b) g[b] = load<V>(grad_output + (o + b) * stride + p);
      for (int r = 0; r < rows; ++r)
        for (int b = 0; b < block; ++b) sum[r][b] += load<V>(samples + r * stride + p) * g[b];
    }
    for (int r = 0; r < rows; ++r)
      for (int b = 0; b < block; ++b) grad_weight[r * weight_step + o + b] += sum_lanes<T>(sum[r][b]);
  }
  if (o < outputs) {
    V sum[rows];
    for (int r = 0; r < rows; ++r) sum[r] = V{};
    for (int p = 0; p < padded; p += width)
      for (int r = 0; r < rows; ++r)
        sum[r] += load<V>(samples + r * stride + p) * load<V>(grad_output + o * stride + p);
    for (int r = 0; r < rows; ++r) grad_weight[r * weight_step + o] += sum_lanes<T>(sum[r]);
  }
}

template <class T>
struct TapKernels {
  void (*transposed_mix)(const T*, const T*, int64_t, int64_t, int, int, T*);
  void (*correlate)(const T*, const T*, int64_t, int, int, int64_t, T*);
};

template <class T>
static TapKernels<T> tap_kernels(int rows) {
  switch (rows) {
#define PW_CASE(R) \
  case R:          \
    return {transposed_mix_rows<T, R>, correlate_rows<T, R>};
    PW_CASE(1) PW_CASE(2) PW_CASE(3) PW_CASE(4) PW_CASE(5) PW_CASE(6) PW_CASE(7) PW_CASE(8)
#undef PW_CASE
    default:
      return {transposed_mix_rows<T, 9>, correlate_rows<T, 9>};
  }
}

// Gradients of one channel at one tap, added to those of the group. With `scatter` the corners are
// replaced by what each of them adds to the gradient of the input.
template <class T, bool scatter>
static void differentiate(const Coordinates<T>& at, const T* mask, const T* columns, int padded,
                          T* corners, T* samples, T* grad_y, T* grad_x, T* grad_mask) {
  typedef typename Simd<T>::V V;
  const T *fraction_y = at.fraction_y, *fraction_x = at.fraction_x;
  for (int p = 0; p < padded; p += Simd<T>::width) {
    const V fy = load<V>(fraction_y + p), fx = load<V>(fraction_x + p);
    const Corners<T> c = Corners<T>::read(corners + 4 * p);
    const V down0 = c.l0 - c.u0, down1 = c.l1 - c.u1;
    const V across = (c.u1 + fy * down1) - (c.u0 + fy * down0);
    V sample = c.interpolate(fy, fx);
    V column = load<V>(columns + p);
    if (mask) {
      const V m = load<V>(mask + p);
      store(grad_mask + p, load<V>(grad_mask + p) + column * sample);
      sample *= m;
      column *= m;
    }
    store(samples + p, sample);
    store(grad_y + p, load<V>(grad_y + p) + column * (down0 + fx * (down1 - down0)));
    store(grad_x + p, load<V>(grad_x + p) + column * across);
    if (scatter) {
      const V low = column * fy, high = column - low;
      const V low1 = low * fx, high1 = high * fx;
      Corners<T>{high - high1, high1, low - low1, low1}.write(corners + 4 * p);
    }
  }
}

// Adds the corners' shares to the plane. Neighbouring pixels mostly hit neighbouring cells; taking
// pixels `padded / 8` apart lets a store reach the cache before the next load needs it.
template <class T>
PW_INLINE void scatter_corners(const T* corners, const int32_t* idx, int64_t row, int padded, T* plane) {
  typedef T Pair __attribute__((vector_size(2 * sizeof(T))));
  const int part = padded / 8;
  for (int i = 0; i < part; ++i)
    for (int j = 0; j < 8; ++j) {
      const int p = j * part + i;
      T* corner = plane + idx[p];
      store(corner, load<Pair>(corner) + load<Pair>(corners + 4 * p));
      store(corner + row, load<Pair>(corner + row) + load<Pair>(corners + 4 * p + 2));
    }
}

// Taps [k0, k0 + rows) of dilation d for one run.
template <class T>
static void backward_taps(const Plan<T>& plan, const Share& share, int64_t d, int64_t k0, int rows,
                          BackwardScratch<T>& s, T* grad_weight) {
  const WarpArgs& a = plan.a;
  const int stride = plan.run_padded;
  const int64_t g = share.c0 / plan.group_channels;
  const T* masks[kTapBlock] = {};
  for (int r = 0; r < rows; ++r) {
    const int64_t channel = g * plan.taps + k0 + r;
    const T far = -kFar;
    const T* dy = fetch_run(a.offsets[d], a.offset_dtype, share.n, 2 * channel, s.run, far, s.dy);
    const T* dx = fetch_run(a.offsets[d], a.offset_dtype, share.n, 2 * channel + 1, s.run, far, s.dx);
    prefetch_tap(plan, share.n, g, d, k0 + r + 2, s.run);
    locate(plan, s.run, dy, dx, d, k0 + r, s.at[r]);
    if (a.masks)
      masks[r] = fetch_run(a.masks[d], a.mask_dtype, share.n, channel, s.run, T(0), s.mask + r * stride);
  }
  const size_t bytes = static_cast<size_t>(rows * stride) * sizeof(T);
  memset(s.grad_y, 0, bytes);
  memset(s.grad_x, 0, bytes);
  memset(s.grad_mask, 0, bytes);

  const TapKernels<T> kernels = tap_kernels<T>(rows);
  const int64_t weight_step = plan.group_channels * plan.mix_outputs;
  for (int64_t c = share.c0; c < share.c1; ++c) {
    const int64_t weight = plan.packed_index(d, g, k0, c % plan.group_channels);
    const T* grad_output = s.grad_output + c / plan.weight_channels * plan.mix_outputs * stride;
    kernels.transposed_mix(grad_output, plan.packed_weight + weight, weight_step, plan.mix_outputs,
                           stride, s.run.padded, s.columns);
    for (int r = 0; r < rows; ++r) {
      const int64_t line = r * stride;
      gather_corners(s.planes + (c - share.c0) * plan.plane, plan.row, s.at[r].idx, s.run.padded,
                     s.corners);
      auto run = share.scatter ? differentiate<T, true> : differentiate<T, false>;
      run(s.at[r], masks[r], s.columns + line, s.run.padded, s.corners, s.samples + line,
          s.grad_y + line, s.grad_x + line, s.grad_mask + line);
      if (share.scatter)
        scatter_corners(s.corners, s.at[r].idx, plan.row, s.run.padded,
                        s.grad_planes + (c - share.c0) * plan.plane);
    }
    if (share.samples && grad_weight)
      kernels.correlate(s.samples, grad_output, plan.mix_outputs, stride, s.run.padded, weight_step,
                        grad_weight + weight);
  }

  if (!share.samples) return;
  for (int r = 0; r < rows; ++r) {
    const int64_t channel = (share.n * a.offset_groups + g) * plan.taps + k0 + r;
    if (a.grad_offsets) {
      write_as(s.grad_y + r * stride, s.run.count, a.offset_dtype, a.grad_offsets[d],
               2 * channel * plan.pixels + s.run.start);
      write_as(s.grad_x + r * stride, s.run.count, a.offset_dtype, a.grad_offsets[d],
               (2 * channel + 1) * plan.pixels + s.run.start);
    }
    if (a.grad_masks)
      write_as(s.grad_mask + r * stride, s.run.count, a.mask_dtype, a.grad_masks[d],
               channel * plan.pixels + s.run.start);
  }
}

template <class T>
static void backward_share(const Plan<T>& plan, const Share& share, BackwardScratch<T>& s,
                           T* grad_weight) {
  const WarpArgs& a = plan.a;
  const int64_t b = share.n / a.frames_per_window;
  const T frame_weight = plan.frame_weight(share.n);
  for (int64_t c = share.c0; c < share.c1; ++c)
    pack_plane(plan, share.n, c, frame_weight, s.planes + (c - share.c0) * plan.plane);
  if (share.scatter)
    memset(s.grad_planes, 0, static_cast<size_t>((share.c1 - share.c0) * plan.plane) * sizeof(T));

  for (int64_t r = share.run0; r < share.run1; ++r) {
    plan.start_run(s.run, r);
    for (int64_t o = 0; o < a.out_channels; ++o) {
      T* line = s.grad_output + o * plan.run_padded;
      read_as(a.grad_output, a.input_dtype, (b * a.out_channels + o) * plan.pixels + s.run.start, 1,
              s.run.count, T(1), line);
      for (int p = s.run.count; p < s.run.padded; ++p) line[p] = 0;
    }
    for (int64_t d = 0; d < a.dilation_count; ++d)
      for (int64_t k = 0; k < plan.taps; k += kTapBlock)
        backward_taps(plan, share, d, k, static_cast<int>(min_of(kTapBlock, plan.taps - k)), s,
                      grad_weight);
  }
  if (!share.scatter) return;
  for (int64_t c = share.c0; c < share.c1; ++c)
    for (int64_t y = 0; y < a.height; ++y) {
      T* line = s.grad_planes + (c - share.c0) * plan.plane + (y + kBorder) * plan.row + kBorder;
      for (int64_t x = 0; x < a.width; ++x) line[x] *= frame_weight;
      write_as(line, a.width, a.input_dtype, a.grad_input,
               ((share.n * a.channels + c) * a.height + y) * a.width);
    }
}

template <class T>
static Status backward(const WarpArgs& a) {
  Plan<T> plan(a);
  const bool want_samples = a.grad_offsets || a.grad_masks || a.grad_weight;
  const bool want_input = a.grad_input != nullptr;

  // Fused where frames and groups alone keep the threads busy. With few groups the samples' gradients
  // are cut along the pixels, and the input's gradient is a pass of its own over the channels. The
  // number of threads decides nothing here, so that results do not depend on it.
  const int64_t owners = plan.frames() * a.offset_groups;
  const bool fused = want_samples && want_input && owners >= 16;
  // Gradients of the weight, one partial sum per (frame, slice), added up in a fixed order.
  const int64_t partial_bytes = plan.weight_count * static_cast<int64_t>(sizeof(T));
  const int64_t most_partials =
      a.grad_weight ? max_of(8, (int64_t(4) << 20) / max_of(1, partial_bytes)) : plan.frames() * 64;
  const int64_t wanted_slices = min_of(64 / max_of(1, owners), min_of(plan.runs(), most_partials));
  const int64_t slices = fused ? 1 : max_of(1, wanted_slices);
  const int64_t wave_frames = max_of(1, min_of(plan.frames(), most_partials / slices));
  const Share group_share{0, 0, plan.group_channels, 0, 0, true, fused};
  const Share channel_share{0, 0, 1, 0, 0, false, true};
  Carver group_size(nullptr), channel_size(nullptr);
  BackwardScratch<T>(plan, group_share, group_size);
  BackwardScratch<T>(plan, channel_share, channel_size);
  const int64_t scratch_bytes = max_of(want_samples ? group_size.used() : 0,
                                       want_input ? channel_size.used() : 0);
  Buffer weight(partial_bytes), scratch(scratch_bytes * a.num_threads),
      partials(a.grad_weight ? partial_bytes * (wave_frames * slices + 1) : 0);
  if (!weight.ok() || !scratch.ok() || !partials.ok()) return kOutOfMemory;
  plan.pack_weight(weight.at<T>(0));
  T* total = partials.at<T>(0);
  T* partial = total + plan.weight_count;
  if (a.grad_weight) memset(total, 0, static_cast<size_t>(partial_bytes));

  auto run = [&](const Share& share, int thread, T* grad_weight) {
    Carver carver(scratch.at<char>(thread * scratch_bytes));
    BackwardScratch<T> s(plan, share, carver);
    backward_share(plan, share, s, grad_weight);
  };

  const int64_t maps = plan.frames() * a.offset_groups * plan.taps * plan.pixels;
  auto element = [](DType dtype) { return dtype == kFloat64 ? 8 : dtype == kFloat32 ? 4 : 2; };
  for (int64_t d = 0; d < a.dilation_count; ++d) {
    if (a.grad_offsets) advise_huge_pages(a.grad_offsets[d], 2 * maps * element(a.offset_dtype));
    if (a.grad_masks) advise_huge_pages(a.grad_masks[d], maps * element(a.mask_dtype));
  }

  const int64_t runs = plan.runs();
  for (int64_t first = 0; want_samples && first < plan.frames(); first += wave_frames) {
    const int64_t wave = min_of(wave_frames, plan.frames() - first);
    if (a.grad_weight) memset(partial, 0, static_cast<size_t>(partial_bytes * wave * slices));
    parallel(wave * slices * a.offset_groups, a.num_threads, [&](int64_t task, int thread) {
      const int64_t g = task % a.offset_groups, slot = task / a.offset_groups, slice = slot % slices;
      const Share share{first + slot / slices,         g * plan.group_channels,
                        (g + 1) * plan.group_channels, runs * slice / slices,
                        runs * (slice + 1) / slices,   true,
                        fused};
      run(share, thread, a.grad_weight ? partial + slot * plan.weight_count : nullptr);
    });
    if (a.grad_weight)
      for (int64_t slot = 0; slot < wave * slices; ++slot)
        for (int64_t i = 0; i < plan.weight_count; ++i) total[i] += partial[slot * plan.weight_count + i];
  }
  if (want_input && !fused)
    parallel(plan.frames() * a.channels, a.num_threads, [&](int64_t task, int thread) {
      const int64_t c = task % a.channels;
      run(Share{task / a.channels, c, c + 1, 0, runs, false, true}, thread, nullptr);
    });
  if (a.grad_weight)
    plan.each_weight([&](int64_t to, int64_t from) { static_cast<T*>(a.grad_weight)[to] = total[from]; });
  return kOk;
}

}  // namespace PW_ISA
}  // namespace pw
