// Forward with offsets from a dilated 3x3 convolution: for each run of pixels, dilation and frame the
// offsets are computed into scratch that stays in L2, and the warp takes them from there.
#pragma once

#include "forward.h"

namespace pw {
namespace PW_ISA {

// Accumulators of the convolution: rows of outputs times vectors of pixels, bounded by the registers.
// Six divides the 18 offset channels of a group's 3x3 kernel.
constexpr int kConvRows = 6;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kConvVectors = 4;
#else
constexpr int kConvVectors = 2;
#endif
// Products of pairs of bfloat16 numbers, on processors that have them beside AVX-512.
#if defined(__AVX512F__) && (defined(__clang__) || __GNUC__ >= 10)
#define PW_HAVE_PAIRS 1
#else
#define PW_HAVE_PAIRS 0
#endif
constexpr int64_t kConvTaps = 9;
// Features and pixels whose patches are in L1 together, 23 KB.
constexpr int64_t kConvFeatures = 10;
constexpr int kConvPixels = 64;

// Part of a patch row: `count` pixels of a panel from the map at `from`, or zeros where it is negative.
struct Segment {
  int64_t from;
  int32_t panel, within, count;
};

// Whether the processor multiplies pairs of bfloat16 numbers and sums them in float32, which is exact but
// for the rounding of the sums and twice as fast.
PW_INLINE bool multiplies_pairs() {
#if PW_HAVE_PAIRS
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

// Pairs of bfloat16 numbers in the bits of floats: from `at` on in steps of `step`, and what follows
// `second` later where it exists.
template <class T>
PW_INLINE void join_pairs(const void* data, int64_t at, int64_t step, int64_t second, bool exists,
                          int64_t count, T* out) {
  const BFloat16* given = static_cast<const BFloat16*>(data) + at;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t high = exists ? given[i * step + second].bits : 0;
    out[i] = static_cast<T>(float_of(given[i * step].bits | high << 16));
  }
}

template <class T>
struct ConvPlan {
  static constexpr int panel = kConvVectors * Simd<T>::width;

  const OffsetConvArgs& a;
  bool pairs;  // a "feature" below is two features in bfloat16, in the bits of one float
  int64_t features, outputs, padded_outputs, depth, blocks;
  const T* packed_weight = nullptr;  // [D][block of features][outputs / 6][features * taps][6]

  explicit ConvPlan(const OffsetConvArgs& args)
      : a(args),
        pairs(a.features_dtype == kBFloat16 && a.offset_weight_dtype == kBFloat16 && multiplies_pairs()),
        features(pairs ? (a.feature_channels + 1) / 2 : a.feature_channels),
        outputs(2 * a.warp.offset_groups * a.warp.kernel_h * a.warp.kernel_w),
        padded_outputs(round_up(outputs, kConvRows)),
        depth(features * kConvTaps),
        blocks((features + kConvFeatures - 1) / kConvFeatures) {}

  int64_t first_feature(int64_t block) const { return features * block / blocks; }
  int64_t weight_count() const { return a.warp.dilation_count * padded_outputs * depth; }

  const T* weight_block(int64_t d, int64_t block) const {
    return packed_weight + (d * depth + first_feature(block) * kConvTaps) * padded_outputs;
  }

  void pack_weight(T* packed) {
    const int64_t row_blocks = padded_outputs / kConvRows;
    parallel(a.warp.dilation_count * row_blocks, a.warp.num_threads, [&](int64_t task, int) {
      const int64_t d = task / row_blocks, row = task % row_blocks * kConvRows;
      const int64_t rows = min_of(kConvRows, outputs - row);
      T lines[kConvRows][kConvFeatures * kConvTaps] = {};
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t k0 = first_feature(block) * kConvTaps, k1 = first_feature(block + 1) * kConvTaps;
        for (int64_t r = 0; r < rows; ++r) read_weight(d * outputs + row + r, k0, k1, lines[r]);
        T* out = packed + (d * depth + k0) * padded_outputs + row * (k1 - k0);
        for (int64_t k = 0; k < k1 - k0; ++k)
          for (int64_t r = 0; r < kConvRows; ++r) *out++ = lines[r][k];
      }
    });
    packed_weight = packed;
  }

  // Values k0 to k1 of a row, or pairs of them.
  void read_weight(int64_t row, int64_t k0, int64_t k1, T* line) const {
    const int64_t first = row * a.feature_channels * kConvTaps;
    if (!pairs) return read_as(a.offset_weight, a.offset_weight_dtype, first + k0, 1, k1 - k0, T(1), line);
    for (int64_t f = k0 / kConvTaps; f < k1 / kConvTaps; ++f, line += kConvTaps)
      join_pairs(a.offset_weight, first + 2 * f * kConvTaps, 1, kConvTaps, 2 * f + 1 < a.feature_channels,
                 kConvTaps, line);
  }

  // Row y of a feature of frame n.
  void read_features(int64_t n, int64_t f, int64_t y, T* line) const {
    const Tensor4& t = a.features;
    const int64_t at = n * t.stride_n + (pairs ? 2 : 1) * f * t.stride_c + y * t.stride_h;
    if (pairs)
      join_pairs(t.data, at, t.stride_w, t.stride_c, 2 * f + 1 < a.feature_channels, a.warp.width, line);
    else
      read_as(t.data, a.features_dtype, at, t.stride_w, a.warp.width, T(1), line);
  }
};

template <class T>
struct ConvScratch {
  T *fields;   // [outputs][run]
  T *patches;  // [panel of pixels][features of a block * taps][panel]
  Segment* segments;
  int64_t segment_end[kConvTaps];

  ConvScratch(const Plan<T>& plan, const ConvPlan<T>& conv, Carver& carver) {
    fields = carver.take<T>(conv.padded_outputs * plan.run_padded);
    patches = carver.take<T>(kConvFeatures * kConvTaps * plan.run_padded);
    segments = carver.take<Segment>(kConvTaps * plan.run_padded);
  }
};

// fields[r][p] (+)= sum_k weight[k][r] * patches[k][p] for six rows and `vectors` vectors of pixels. Not
// inlined: it needs every register.
template <class T, int vectors>
__attribute__((noinline)) static void convolve_block(const T* weight, const T* patches, int64_t depth,
                                                     bool add, int64_t stride, T* fields) {
  typedef typename Simd<T>::V V;
  constexpr int width = Simd<T>::width;
  V sum[kConvRows][vectors];
  for (int r = 0; r < kConvRows; ++r)
    for (int v = 0; v < vectors; ++v) sum[r][v] = V{};
  do {  // at least once, or the compiler keeps the sums in memory on the way out
    V pixels[vectors];
    for (int v = 0; v < vectors; ++v) pixels[v] = load<V>(patches + v * width);
    for (int r = 0; r < kConvRows; ++r)
      for (int v = 0; v < vectors; ++v) sum[r][v] += weight[r] * pixels[v];
    weight += kConvRows;
    patches += vectors * width;
  } while (--depth > 0);
  for (int r = 0; r < kConvRows; ++r)
    for (int v = 0; v < vectors; ++v) {
      T* out = fields + r * stride + v * width;
      store(out, add ? load<V>(out) + sum[r][v] : sum[r][v]);
    }
}

#if PW_HAVE_PAIRS
// The same sums, of pairs of bfloat16 numbers.
template <int vectors>
__attribute__((target("avx512bf16"))) static void convolve_pairs(const float* weight, const float* patches,
                                                                 int64_t depth, bool add, int64_t stride,
                                                                 float* fields) {
  __m512 sum[kConvRows][vectors];
  for (int r = 0; r < kConvRows; ++r)
    for (int v = 0; v < vectors; ++v) sum[r][v] = _mm512_setzero_ps();
  do {
    __m512bh pixels[vectors];
    for (int v = 0; v < vectors; ++v) pixels[v] = (__m512bh)_mm512_loadu_ps(patches + v * 16);
    for (int r = 0; r < kConvRows; ++r) {
      const __m512bh factor = (__m512bh)_mm512_set1_ps(weight[r]);
      for (int v = 0; v < vectors; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], factor, pixels[v]);
    }
    weight += kConvRows;
    patches += vectors * 16;
  } while (--depth > 0);
  for (int r = 0; r < kConvRows; ++r)
    for (int v = 0; v < vectors; ++v) {
      float* out = fields + r * stride + v * 16;
      _mm512_storeu_ps(out, add ? _mm512_loadu_ps(out) + sum[r][v] : sum[r][v]);
    }
}
#endif

template <class T>
struct ConvKernels {
  void (*panel)(const T*, const T*, int64_t, bool, int64_t, T*);
  void (*two_vectors)(const T*, const T*, int64_t, bool, int64_t, T*);
};

PW_INLINE ConvKernels<double> conv_kernels(double, bool) {
  return {convolve_block<double, kConvVectors>, convolve_block<double, 2>};
}
PW_INLINE ConvKernels<float> conv_kernels(float, bool pairs) {
#if PW_HAVE_PAIRS
  if (pairs) return {convolve_pairs<kConvVectors>, convolve_pairs<2>};
#endif
  (void)pairs;
  return {convolve_block<float, kConvVectors>, convolve_block<float, 2>};
}

// Where the patches of a run come from, for the nine taps of dilation d.
template <class T>
static void find_segments(const Plan<T>& plan, int64_t d, const Run<T>& run, ConvScratch<T>& s) {
  const WarpArgs& a = plan.a;
  constexpr int panel = ConvPlan<T>::panel;
  Segment* end = s.segments;
  for (int64_t tap = 0; tap < kConvTaps; ++tap) {
    const int64_t shift_y = (tap / 3 - 1) * a.dilations[2 * d];
    const int64_t shift_x = (tap % 3 - 1) * a.dilations[2 * d + 1];
    Segment* first = end;
    int64_t y = run.start / a.width, x = run.start % a.width;
    for (int p = 0; p < run.padded; ++p) {
      const bool inside = p < run.count && y + shift_y >= 0 && y + shift_y < a.height &&
                          x + shift_x >= 0 && x + shift_x < a.width;
      const int64_t from = inside ? (y + shift_y) * a.width + x + shift_x : -1;
      const Segment* last = end > first && p % panel != 0 ? end - 1 : nullptr;
      if (last && (inside ? last->from >= 0 && from == last->from + last->count : last->from < 0))
        ++end[-1].count;
      else
        *end++ = Segment{from, p / panel, p % panel, 1};
      if (++x == a.width) x = 0, ++y;
    }
    s.segment_end[tap] = end - s.segments;
  }
}

// `count` elements; whole vectors, the last of which may overlap the one before it.
template <class T>
PW_INLINE void copy_pixels(const T* from, int64_t count, T* to) {
  typedef typename Simd<T>::V V;
  constexpr int width = Simd<T>::width;
  if (count < width) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
    return;
  }
  for (int64_t i = 0; i + width <= count; i += width) store(to + i, load<V>(from + i));
  store(to + count - width, load<V>(from + count - width));
}

// The offsets of a run: maps of one frame's features, `map_step` apart, convolved with dilation d.
template <class T>
static void convolve_run(const ConvPlan<T>& conv, int64_t d, const T* maps, int64_t map_step,
                         int run_padded, const Run<T>& run, ConvScratch<T>& s) {
  constexpr int panel = ConvPlan<T>::panel;
  const ConvKernels<T> kernels = conv_kernels(T(), conv.pairs);
  for (int64_t block = 0; block < conv.blocks; ++block) {
    const int64_t f0 = conv.first_feature(block), f1 = conv.first_feature(block + 1);
    const int64_t depth = (f1 - f0) * kConvTaps;
    for (int64_t f = f0; f < f1; ++f) {
      const T* map = maps + f * map_step;
      const Segment* segment = s.segments;
      for (int64_t tap = 0; tap < kConvTaps; ++tap) {
        const int64_t k = (f - f0) * kConvTaps + tap;
        for (; segment < s.segments + s.segment_end[tap]; ++segment) {
          const int64_t first = segment->panel * panel;
          T* out = s.patches + first * depth + k * min_of(panel, run.padded - first) + segment->within;
          if (segment->from >= 0) {
            // The maps lie too far apart for the processor to see what comes next; the taps of the
            // middle column cover nearly all of it.
            if (tap % 3 == 1 && f + 1 < conv.features)
              for (int i = 0; i < segment->count; i += 64 / static_cast<int>(sizeof(T)))
                __builtin_prefetch(map + map_step + segment->from + i);
            copy_pixels(map + segment->from, segment->count, out);
          } else
            for (int i = 0; i < segment->count; ++i) out[i] = T(0);
        }
      }
    }
    const T* weight = conv.weight_block(d, block);
    for (int p0 = 0; p0 < run.padded; p0 += kConvPixels)
      for (int64_t o = 0; o < conv.padded_outputs; o += kConvRows)
        for (int p = p0; p < run.padded && p < p0 + kConvPixels; p += panel) {
          auto convolve = run.padded - p >= panel ? kernels.panel : kernels.two_vectors;
          convolve(weight + o * depth, s.patches + p * depth, depth, block > 0, run_padded,
                   s.fields + o * run_padded + p);
        }
  }
}

// The features of a frame as T with contiguous maps, rows [y0, y1) of them. Row by row, so that
// channels-last memory is read once.
template <class T>
static void copy_features(const ConvPlan<T>& conv, int64_t n, int64_t y0, int64_t y1, T* maps) {
  const WarpArgs& w = conv.a.warp;
  for (int64_t y = y0; y < y1; ++y)
    for (int64_t f = 0; f < conv.features; ++f)
      conv.read_features(n, f, y, maps + (f * w.height + y) * w.width);
}

template <class T>
static Status offset_conv(const OffsetConvArgs& args) {
  const WarpArgs& a = args.warp;
  Plan<T> plan(a);
  ConvPlan<T> conv(args);
  if (plan.pixels == 0 || a.windows == 0) return kOk;

  // Runs of whole panels whose offsets stay in L2, and not longer than what keeps the threads busy.
  constexpr int64_t panel = ConvPlan<T>::panel;
  const int64_t cached = (int64_t(320) << 10) / (conv.padded_outputs * static_cast<int64_t>(sizeof(T)));
  const int64_t share = a.windows * plan.pixels / (4 * a.num_threads);
  const int64_t wanted = max_of(1, min_of(256, min_of(cached, share)) / panel) * panel;
  plan.run_pixels = static_cast<int>(min_of(wanted, plan.pixels));
  plan.run_padded = static_cast<int>(round_up(plan.run_pixels, Plan<T>::run_step));

  // Contiguous maps of T are read in place, others copied for a chunk of windows.
  const bool direct = !conv.pairs && args.features_dtype == native_dtype(T()) &&
                      args.features.stride_w == 1 && args.features.stride_h == a.width;
  const int64_t t_size = static_cast<int64_t>(sizeof(T)), frames = a.frames_per_window;
  const int64_t map_step = direct ? args.features.stride_c : plan.pixels;
  const int64_t frame_step = direct ? args.features.stride_n : conv.features * plan.pixels;
  const int64_t window_planes = frames * a.channels * plan.plane;
  const int64_t window_maps = direct ? 0 : frames * frame_step;
  const int64_t cached_windows = (int64_t(4) << 20) / ((window_planes + window_maps) * t_size);
  const int64_t busy_windows = (4 * a.num_threads + plan.runs() - 1) / plan.runs();
  const int64_t chunk = min_of(a.windows, max_of(cached_windows, busy_windows));
  Carver size(nullptr);
  ForwardScratch<T>(plan, size);
  ConvScratch<T>(plan, conv, size);
  Buffer weight((plan.weight_count + conv.weight_count()) * t_size),
      planes(chunk * window_planes * t_size), maps(chunk * window_maps * t_size),
      scratch(size.used() * a.num_threads);
  if (!weight.ok() || !planes.ok() || !maps.ok() || !scratch.ok()) return kOutOfMemory;
  conv.pack_weight(weight.at<T>(0));
  plan.pack_weight(weight.at<T>(0) + conv.weight_count());

  for (int64_t first = 0; first < a.windows; first += chunk) {
    const int64_t windows = min_of(chunk, a.windows - first);
    pack_windows(plan, first, windows, planes.at<T>(0));
    const T* given = static_cast<const T*>(args.features.data) + first * frames * frame_step;
    if (!direct) {
      constexpr int64_t rows = 8;
      const int64_t strips = (a.height + rows - 1) / rows;
      parallel(windows * frames * strips, a.num_threads, [&](int64_t task, int) {
        const int64_t n = task / strips, y = task % strips * rows;
        copy_features(conv, first * frames + n, y, min_of(y + rows, a.height),
                      maps.at<T>(0) + n * frame_step);
      });
      given = maps.at<T>(0);
    }
    parallel(windows * plan.runs(), a.num_threads, [&](int64_t task, int thread) {
      Carver carver(scratch.at<char>(thread * size.used()));
      ForwardScratch<T> s(plan, carver);
      ConvScratch<T> c(plan, conv, carver);
      const int64_t window = task / plan.runs();
      plan.start_run(s.run, task % plan.runs());
      start_accumulators(plan, s);
      for (int64_t d = 0; d < a.dilation_count; ++d) {
        find_segments(plan, d, s.run, c);
        for (int64_t n = window * frames; n < (window + 1) * frames; ++n) {
          convolve_run(conv, d, given + n * frame_step, map_step, plan.run_padded, s.run, c);
          for (int64_t g = 0; g < a.offset_groups; ++g)
            warp_group(
                plan, g, d, planes.at<T>(0) + n * a.channels * plan.plane,
                [&](int64_t k) {
                  const T* field = c.fields + 2 * (g * plan.taps + k) * plan.run_padded;
                  return Tap<T>{field, field + plan.run_padded, nullptr};
                },
                s);
        }
      }
      write_accumulators(plan, first + window, s);
    });
  }
  return kOk;
}

}  // namespace PW_ISA
}  // namespace pw
