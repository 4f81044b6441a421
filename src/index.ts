// The public API.

export { ACTIVATIONS, type Activation } from './activation.ts';
export {
  type BackendInfo,
  backendInfo,
  type DeviceInfo,
  devices,
  finished,
  getThreads,
  type MemoryInfo,
  memory,
  setThreads,
  synchronize,
  trimMemory,
} from './device.ts';
export type { DType, FloatDType, TensorData } from './dtype.ts';
export { type ErrorCode, MoeError } from './errors.ts';
export { MoELayer, type MoELayerBackward, type MoELayerConfig, type NamedTensors } from './layer.ts';
export type { ExpertName, Experts } from './ops/experts.ts';
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
} from './ops/moe.ts';
export {
  type Dispatch,
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
  type Routing,
  route,
  routeBackward,
} from './ops/route.ts';
export type { ResolvedRouter, RouterOptions } from './router.ts';
export {
  type DeviceName,
  empty,
  Tensor,
  type TensorOptions,
  type TensorSource,
  tensor,
  zeros,
} from './tensor.ts';
