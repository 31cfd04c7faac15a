// The C entry points, and the choice of the instruction set at run time.
#include <cstring>

#include "warp.h"

namespace pw {
namespace baseline {
extern const KernelTable table;
}
#if defined(PW_HAVE_X86_VARIANTS)
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
#endif

namespace {

struct Choice {
  const char* name;
  const KernelTable* table;
  bool (*supported)();
};

// Best first.
const Choice kChoices[] = {
#if defined(PW_HAVE_X86_VARIANTS)
    {"avx512", &avx512::table,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("fma");
     }},
    {"avx2", &avx2::table,
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
    {"baseline", &baseline::table, [] { return true; }},
};

// The best supported one, or the one of that name; null where this processor lacks it.
const Choice* find(const char* name) {
  for (const Choice& choice : kChoices)
    if ((name == nullptr || std::strcmp(name, choice.name) == 0) && choice.supported()) return &choice;
  return nullptr;
}

const Choice* active() {
  static const Choice* choice = find(nullptr);
  return choice;
}

}  // namespace
}  // namespace pw

#define PW_EXPORT extern "C" __attribute__((visibility("default")))

// `isa` null: the best that the processor has. Returns a Status, or -1 for an unsupported `isa`.
PW_EXPORT int pw_warp_forward(const pw::WarpArgs* args, const char* isa) {
  const pw::Choice* choice = isa ? pw::find(isa) : pw::active();
  return choice ? choice->table->forward(*args) : -1;
}

PW_EXPORT int pw_warp_backward(const pw::WarpArgs* args, const char* isa) {
  const pw::Choice* choice = isa ? pw::find(isa) : pw::active();
  return choice ? choice->table->backward(*args) : -1;
}

PW_EXPORT int pw_offset_conv_warp(const pw::OffsetConvArgs* args, const char* isa) {
  const pw::Choice* choice = isa ? pw::find(isa) : pw::active();
  return choice ? choice->table->offset_conv(*args) : -1;
}

PW_EXPORT const char* pw_active_isa() { return pw::active()->name; }

// Changes with the arguments, so that a library left over from another version is not called.
PW_EXPORT int pw_abi_version() { return 2; }
