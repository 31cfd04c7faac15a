// Compiled once per instruction set; PW_ISA names the namespace (baseline, avx2, avx512).
#include "backward.h"
#include "forward.h"
#include "offset_conv.h"

namespace pw {
namespace PW_ISA {

extern const KernelTable table;

const KernelTable table = {
    [](const WarpArgs& a) { return a.input_dtype == kFloat64 ? forward<double>(a) : forward<float>(a); },
    [](const WarpArgs& a) { return a.input_dtype == kFloat64 ? backward<double>(a) : backward<float>(a); },
    [](const OffsetConvArgs& a) {
      return a.warp.input_dtype == kFloat64 ? offset_conv<double>(a) : offset_conv<float>(a);
    },
};

}  // namespace PW_ISA
}  // namespace pw
