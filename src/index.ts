// The public API.

export { ACTIVATIONS, type Activation, type ActivationOptions } from './activation.ts';
export {
  type BackendInfo,
  backendInfo,
  type DeviceInfo,
  devices,
  type Float32Matmul,
  finished,
  getFloat32Matmul,
  getThreads,
  type MemoryInfo,
  memory,
  type PoolInfo,
  setFloat32Matmul,
  setThreads,
  synchronize,
  trimMemory,
} from './device.ts';
export type { DType, FloatDType, TensorData } from './dtype.ts';
export { type ErrorCode, MoeError } from './errors.ts';
export { capture, Graph } from './graph.ts';
export { MoELayer, type MoELayerBackward, type NamedTensors } from './layer.ts';
export type {
  LayerLora,
  LayerRouter,
  LayerShared,
  LoraSide,
  MoELayerConfig,
  SharedGate,
} from './layer-config.ts';
export {
  type RouterLossArgs,
  type RouterLosses,
  type RoutingStatistics,
  routerLoss,
  routingStatistics,
  updateSelectionBias,
} from './ops/balance.ts';
export type { ExpertLayout, ExpertName, Experts, GateUpLayout } from './ops/experts.ts';
export {
  type GroupedMatmulArgs,
  type GroupedMatmulDgradArgs,
  type GroupedMatmulWgradArgs,
  groupedMatmul,
  groupedMatmulDgrad,
  groupedMatmulWgrad,
} from './ops/grouped-matmul.ts';
export {
  type GivenRouting,
  type MoeBackwardArgs,
  type MoeForwardArgs,
  type MoeForwardResult,
  type MoeGradients,
  type MoeSaved,
  moeBackward,
  moeForward,
  type RouterParameters,
  type SaveMode,
  type WeightSide,
} from './ops/moe.ts';
export {
  type Dispatch,
  type DispatchArgs,
  dispatch,
  permute,
  permuteBackward,
  unpermute,
  unpermuteBackward,
} from './ops/permute.ts';
export {
  type RouteArgs,
  type RouteBackwardArgs,
  type RouteGradients,
  type RouterTensors,
  type Routing,
  route,
  routeBackward,
  SLOT_FATES,
} from './ops/route.ts';
export type { SharedExpert } from './ops/shared.ts';
export { type Overrides, type Preset, presets, withOverrides } from './presets.ts';
export type { ResolvedRouter, RouterGroups, RouterOptions } from './router.ts';
export type { ExpertChoice, ResolvedCapacity, RouterCapacity, RowsPerExpert } from './router-capacity.ts';
export type { Annealing, ResolvedNoise, RouterNoise } from './router-noise.ts';
export type { RouteCall, RoutingRun } from './router-run.ts';
export { signalStream, streamOf, waitForStream } from './stream.ts';
export {
  type DeviceName,
  type EmptyOptions,
  empty,
  ones,
  type PointerOptions,
  Tensor,
  type TensorOptions,
  type TensorSource,
  tensor,
  tensorFromPointer,
  zeros,
} from './tensor.ts';
export { startTimer, Timer } from './timer.ts';
export { type LoadExpertsOptions, loadExperts } from './weights.ts';
