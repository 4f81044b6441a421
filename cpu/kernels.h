// What one instruction set provides: a table of kernels, filled by its own translation unit (isa_*.cpp).
//
// Every kernel computes each output element by one fixed sequence of operations, whatever the tile, thread or
// batch around it; Chains is that of a matrix product. That makes results deterministic and batch-invariant,
// and lets tiles be chosen freely.
#pragma once

#include <cstdint>

#include "ops/activation.h"
#include "ops/dtype.h"
#include "ops/router.h"

namespace moe::cpu {

// B panels hold two slivers of `width` lanes, so that a gated tile has gate lanes in one and up lanes in the
// other.
inline constexpr int kSlivers = 2;
// Rows of the largest tile of any instruction set.
inline constexpr int kMaxTileRows = 16;

// How k steps are stored in panels. Both are units of 32 bits: one float, or two bfloat16 of consecutive k.
enum class PanelKind : uint8_t { floats, bfloat16_pairs };
inline constexpr int kPanelKinds = 2;

// Steps of k in one unit.
constexpr int steps_per_unit(PanelKind kind) {
  return kind == PanelKind::bfloat16_pairs ? 2 : 1;
}

// The order in which a product adds its terms: chains of multiply-adds, one a unit, in ascending k. One chain
// from the first term to the last; or, run by run of kChainedUnits units, several, which take the words of 32
// bits of stored rows by turns. The first of these continues the sum, the others start from zero and are
// added to it, one after the other. So a register may add several words of a row at once, and little of B has
// to be transposed, or nothing (cpu/isa/quads.h, row_quads.h). All are equally long: what a run has not is
// zeros.
struct Chains {
  int count = 1;
  int together = 1;  // consecutive units of one chain: those of a word

  // Units of each chain, where a run has so many.
  int64_t length(int64_t units) const {
    const int64_t turn = int64_t{count} * together;
    return (units + turn - 1) / turn * together;
  }
};
inline constexpr int kMostChains = 4;
inline constexpr int64_t kChainedUnits = 1024;

// Of a forward product of such units by a B of such a dtype: several where B's numbers are widened, for that
// is where one chain takes longer than memory. However B's rows lie, so that every layout of a weight gives
// the same bits. Other products have one.
constexpr Chains chains_of(PanelKind kind, DType b) {
  if (kind != PanelKind::floats || b == DType::float32) return {};
  return {.count = kMostChains, .together = b == DType::bfloat16 ? 2 : 1};
}

// Copies `lanes` ≤ `pitch` lanes over `steps` steps of k, a run's at most, into panel[unit][pitch],
// converted; other lanes become zero, and units past an odd end. The units of each chain lie behind those of
// the one before. Where stored rows are steps of k, twice as many lanes as a pitch of `width` make two
// panels, the second right behind the first: both slivers of a tile.
struct PackArgs {
  const void* const* rows;  // stored rows: one per lane (k contiguous) or one per step (lanes contiguous)
  int64_t offset;           // elements to skip in each stored row
  int lanes;
  int pitch;
  int64_t steps;
  float* panel;
  Chains chains = {};
};
using PackKernel = void (*)(const PackArgs&);

inline constexpr int64_t kCacheLine = 64;

// What memory is asked for while something else is multiplied: the bytes [begin, end) of stored rows, one row
// after the other, for memory is fastest in the order of its addresses. Kernels move it on.
struct Ahead {
  const void* const* row = nullptr;
  int64_t begin = 0, end = 0;
  int64_t at = 0;      // in the present row
  int64_t lines = 0;   // cache lines that are left
  bool pages = false;  // ask for the first line of each page alone
};
// So many lines of it, at most.
struct AheadShare {
  Ahead* of = nullptr;
  int64_t lines = 0;
};

// Rows of a whole tile that are streamed: rounded, and stored around the caches, where nobody would find them
// before they are gone. Each is whole cache lines, and aligned. Whoever lets others read them calls settle()
// first.
struct StreamedTile {
  void* out = nullptr;
  int64_t stride = 0;
  DType dtype = DType::float32;
};

// c[rows][2·width] (+)= Σ_unit a[unit][rows] · b[sliver][unit][width]
struct TileProductArgs {
  int64_t units;  // of each chain
  const float* a;
  const float* b0;
  const float* b1;
  float* c;
  bool accumulate;             // add to c instead of starting at zero
  int first_chain = 0;         // of a run; c holds the sum of those before
  int chains = 1;              // from that one on
  StreamedTile streamed = {};  // where the sums go instead of to c, or nowhere
  AheadShare ahead = {};       // at most one line a unit is asked for
};
using TileProduct = void (*)(const TileProductArgs&);

// c[rows][width of 2·width] (+)= Σ_step a[unit][rows] · b[lane][step], B as it is stored: a row a lane. Of
// several chains a has a word of each side by side: a[word of each][unit of the word][row][chain], zeros
// after the last step.
struct FewRowsArgs {
  const void* const* rows;  // of each lane
  int64_t offset;           // elements to skip in each
  int lanes;                // at least 1; those after them are given any sums
  int64_t steps;
  const float* a;
  float* c;
  bool accumulate;
  AheadShare ahead = {};  // at most one line for each of B is asked for
};
using FewRowsProduct = void (*)(const FewRowsArgs&);

// The same with A's rows as the lanes of registers, so that B's columns need no transposing: their units are
// broadcast. a[unit][rows, in so many eights as the product is for]; lanes of A after `rows` are given no
// sums. Of several chains a is a panel for each register's rows, width / kMostChains of them, each as
// FewRowsArgs has it.
struct RowLanesArgs {
  FewRowsArgs stored;
  int rows;
};
using RowLanesProduct = void (*)(const RowLanesArgs&);
// Rows that share half a register, and how many times as many the largest product has.
inline constexpr int kRowLanes = 8;
inline constexpr int kMaxRowEights = 6;
// Most rows of a product of several chains.
inline constexpr int kMaxQuadRows = 192;

// out[row][lane] (+)= scale · c[row][lane] + bias[lane]
struct StoreArgs {
  const float* c;  // [rows][2·width]
  int rows, lanes;
  float scale = 1;
  void* out;
  int64_t out_stride;
  DType dtype;
  bool accumulate;
  const void* bias;  // at lane 0, or null
  DType bias_dtype;
};

// pre = weight·c + bias, stored where asked; out = activation(pre), `lanes` of them. Ungated: 2·width lanes
// of one matrix. Gated, `lanes` ≤ width: c's first sliver is the gate, its second the up part; or,
// interleaved, gate and up alternate in c, in the biases and in pre, where up then starts one element after
// gate.
struct ActivateArgs {
  ActivationSpec activation;
  bool interleaved = false;
  const float* c;
  int rows, lanes;
  const float* row_weights;  // one per row, or null for 1
  const void* gate_bias;     // at lane 0, or null; ungated: unused
  const void* up_bias;
  DType bias_dtype;
  void* gate_pre;  // at the tile's first element, or null
  void* up_pre;
  int64_t pre_stride;
  void* out;  // may be null
  int64_t out_stride;
  DType dtype;
};

// c is the gradient of the activated row before weighting. d_pre = act'(pre)·weight·c; weighted =
// weight·act(pre); dot[row] = ⟨c, act(pre)⟩ over these lanes. Interleaved: gate and up alternate in pre and
// d_pre, where up then starts one element after gate.
struct ActivateBackwardArgs {
  ActivationSpec activation;
  bool interleaved = false;
  const float* c;  // [rows][2·width]
  int rows, lanes;
  const float* row_weights;  // one per row, or null for 1
  const void* gate_pre;
  const void* up_pre;
  int64_t pre_stride;
  void* gate_d_pre;
  void* up_d_pre;
  void* weighted;  // or null
  int64_t weighted_stride;
  float* dot;  // or null
  int64_t dot_stride;
  DType dtype;
};

// out[i] = Σ_j weights[j] · rows[j][i], in the order of j; weights of 1 where null
struct SumRowsArgs {
  const void* const* rows;
  const float* weights;
  int64_t count, width;
  DType dtype;
  void* out;
  DType out_dtype;
  bool accumulate;
};

// One token: logits → K experts, in descending order of what they were chosen by, and their weights. Returns
// how many of the K slots are taken.
struct RouteTokenArgs {
  const RouterConfig& router;
  int64_t experts;              // E'
  const float* logits;          // [E']
  const float* selection_bias;  // [E'], or null
  const float* expert_scale;    // [E'], or null
  int32_t* indices;             // [K]; read with Choice::given
  float* weights;               // [K]
  float* scratch;               // [4·E']
};

// One token: gradient of the weights (or null) → gradient of the logits, added to `extra` where given.
struct RouteTokenBackwardArgs {
  const RouterConfig& router;
  int64_t experts;            // E'
  const float* logits;        // [E']
  const int32_t* indices;     // [K]
  const float* expert_scale;  // [E'], or null
  const float* d_weights;     // [K], or null
  const float* extra;         // [E'], or null
  float* d_logits;            // [E']
  float* d_expert_scale;      // [K], or null: of each chosen expert's scale
  float* scratch;             // [2·K]
};

struct Kernels {
  const char* name;
  int width;      // lanes of a register
  int tile_rows;  // most rows of a tile
  // More are faster as lanes, where they may be, than beside a B that is transposed on its way.
  int most_rows_beside_lanes;
  // By panel kind and rows - 1; null where the instruction set has no such product.
  TileProduct tile_product[kPanelKinds][kMaxTileRows];
  // By panel kind and source dtype (float32, bfloat16, float16); pairs come from bfloat16 alone.
  PackKernel pack_k_contiguous[kPanelKinds][3];
  PackKernel pack_lanes_contiguous[kPanelKinds][3];
  // A as FewRowsArgs has it where there are several chains. By its dtype; of floats.
  PackKernel pack_words[3];
  // By panel kind, source dtype and rows - 1; of all the rows that a tile may have.
  FewRowsProduct few_rows_product[kPanelKinds][3][kMaxTileRows];
  // By panel kind, source dtype and eights of rows - 1; null where the instruction set has no such product.
  RowLanesProduct row_lanes_product[kPanelKinds][3][kMaxRowEights];
  // Of several chains, by source dtype; of floats. Null where there is no such product.
  RowLanesProduct row_quads_product[3];

  void (*store)(const StoreArgs&);
  void (*settle)();
  void (*activate)(const ActivateArgs&);
  void (*activate_backward)(const ActivateBackwardArgs&);
  void (*sum_rows)(const SumRowsArgs&);
  float (*dot)(const void* a, DType a_dtype, const void* b, DType b_dtype, int64_t width);
  void (*cast)(const void* source, DType source_dtype, void* out, DType out_dtype, int64_t count);
  int (*route_token)(const RouteTokenArgs&);
  void (*route_token_backward)(const RouteTokenBackwardArgs&);
  // One token: shares p of the experts, and slopes with dz = slopes·(dp - Σ dp·p).
  void (*expert_shares)(Score, const float* logits, int64_t experts, float* shares, float* slopes);
  // One token: softmax, returning ln Σ exp z.
  float (*softmax)(const float* logits, int64_t experts, float* out);
};

// Each defined by the translation unit of its instruction set.
extern const Kernels kBaselineKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512Bf16Kernels;
extern const Kernels kAvx512Bf16FloatKernels;
#elif defined(__aarch64__)
extern const Kernels kNeonKernels;
#endif

// The best table this processor runs, or the one that MOE_KERNELS_ISA names. Chosen once.
const Kernels& kernels();

// Names of every table this processor runs, best first.
struct KernelList {
  const Kernels* tables[8];
  int count;
};
const KernelList& available_kernels();

}  // namespace moe::cpu
