// The calling convention between Python (ctypes), the dispatcher and the kernels.
// Plain C data only: the library depends neither on Python nor on torch.
#pragma once

#include <cstdint>

namespace pw {

enum DType : int32_t { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

enum Status : int32_t { kOk = 0, kOutOfMemory = 1 };

// A tensor [N, C, H, W]. The kernels read any strides of `input`; of offsets and masks they ask for
// contiguous maps (stride_h = W, stride_w = 1) with any stride between frames and channels.
struct Tensor4 {
  void* data;
  int64_t stride_n, stride_c, stride_h, stride_w;  // in elements
};

struct WarpArgs {
  // sizes
  int64_t windows, frames_per_window;  // frames N = windows * frames_per_window
  int64_t channels, height, width;
  int64_t out_channels, out_height, out_width;
  int64_t groups, offset_groups, dilation_count;
  int64_t kernel_h, kernel_w, stride_h, stride_w;
  const int64_t* paddings;   // (h, w) per dilation
  const int64_t* dilations;  // (h, w) per dilation
  // element types; weight, bias and frame_weights have the type of the arithmetic:
  // float64 for float64 inputs, else float32
  DType input_dtype, offset_dtype, mask_dtype;
  int32_t num_threads;
  // operands
  Tensor4 input;
  const Tensor4* offsets;      // one per dilation
  const Tensor4* masks;        // one per dilation, or null
  const void* weight;          // [D, C_out, C / groups, kh, kw]
  const void* bias;            // [C_out] or null
  const void* frame_weights;   // [frames_per_window] or null
  void* output;                // forward: [windows, C_out, H_out, W_out], input_dtype
  // backward (null = not wanted); all contiguous
  const void* grad_output;         // [windows, C_out, H_out, W_out], input_dtype
  void* grad_input;                // like input, input_dtype
  void* const* grad_offsets;       // one per dilation, offset_dtype
  void* const* grad_masks;         // one per dilation, mask_dtype
  void* grad_weight;               // like weight, type of the arithmetic
};

// The forward warp with offsets = conv2d(features, offset_weight[d], padding = dilation = dilations[d]).
// `warp.offsets` and everything of the backward are unused; stride 1, out_hw = hw.
struct OffsetConvArgs {
  WarpArgs warp;
  Tensor4 features;  // [N, F, H, W], any strides
  DType features_dtype, offset_weight_dtype;
  int64_t feature_channels;
  const void* offset_weight;  // [D, 2 * G * K, F, 3, 3], contiguous
};

// One entry per instruction set; each lives in a namespace of its own.
struct KernelTable {
  Status (*forward)(const WarpArgs&);
  Status (*backward)(const WarpArgs&);
  Status (*offset_conv)(const OffsetConvArgs&);
};

}  // namespace pw
