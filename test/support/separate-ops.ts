// The layer as a framework would wire it from the stateless ops. Only the sums of the routed experts' and the shared one's
// share are left to the framework.

import {
  type ActivationOptions,
  type DeviceName,
  type Dispatch,
  dispatch,
  type ExpertLayout,
  groupedMatmul,
  groupedMatmulDgrad,
  groupedMatmulWgrad,
  route,
  routeBackward,
  type Tensor,
  unpermute,
  unpermuteBackward,
} from '../../src/index.ts';
import { type LayerInputs, type LayerRun, uploadLayer } from './layer.ts';
import { download, free, type Replaced, upload } from './tensors.ts';

type Outcome = Replaced<LayerRun, Float64Array>;

interface Block {
  x: Tensor;
  dy: Tensor;
  /** Which rows go where, and what each is worth: on its way in, or out. */
  dispatch: Dispatch;
  weights: Tensor;
  onInput: boolean;
  activation: ActivationOptions;
  layout?: ExpertLayout;
  up: Tensor;
  upBias?: Tensor;
  down: Tensor;
  downBias?: Tensor;
}

/** The experts over a dispatch, forward and backward. */
function runBlock(block: Block) {
  const { x, dy, dispatch, weights, onInput, activation, layout = {}, up, upBias, down, downBias } = block;
  const { transposed } = layout;
  const { offsets } = dispatch;
  const toRows = (of: Tensor, weighted: boolean) =>
    unpermuteBackward({ dy: of, dispatch, weights: weighted ? weights : undefined }).dRows;
  /** With what slots without a row add of `own`: their weights' share, whether the rows are weighted or not. */
  const toTokens = (rows: Tensor, own: Tensor, weighted: boolean) => {
    if (weighted) return unpermute({ rows, dispatch, weights, x: own });
    const { dx: accumulateInto, dRows: unused } = unpermuteBackward({ dy: own, dispatch, weights, x: own });
    unused.dispose();
    return unpermute({ rows, dispatch, accumulateInto });
  };

  const rows = toRows(x, onInput);
  const upArgs = { rows, weight: up, offsets, bias: upBias, ...activation, ...layout };
  const { out: activated, preActivation } = groupedMatmul({ ...upArgs, savePreActivation: true });
  const downArgs = { rows: activated, weight: down, offsets, bias: downBias, transposed };
  const { out: outputs } = groupedMatmul(downArgs);
  const y = toTokens(outputs, x, !onInput);

  const dOut = toRows(dy, !onInput);
  const dDownArgs = { dOut, rows: activated, offsets, bias: downBias !== undefined, transposed };
  const dDown = groupedMatmulWgrad(dDownArgs);
  const dPre = groupedMatmulDgrad({ dOut, weight: down, offsets, ...activation, preActivation, ...layout });
  const dUp = groupedMatmulWgrad({ dOut: dPre, rows, offsets, bias: upBias !== undefined, transposed });
  const dRows = groupedMatmulDgrad({ dOut: dPre, weight: up, offsets, transposed });
  const dx = toTokens(dRows, dy, onInput);
  const factors = onInput ? { dy: x, rows: dRows, x: dy } : { dy, rows: outputs, x };
  const { dWeights, ...unused } = unpermuteBackward({ ...factors, dispatch, weights });
  free([rows, activated, preActivation, outputs, dOut, dPre, dRows, unused, dispatch]);
  return { y, dx, dWeights: dWeights!, dUp, dDown };
}

interface Options {
  readonly device?: DeviceName;
  /** Every expert has as many rows as it can have, used or not. */
  readonly padded?: boolean;
}

export function runSeparateOps(inputs: LayerInputs, options: Options = {}): Outcome {
  const routed = runRouted(inputs, options);
  const shared = inputs.config.shared && runShared(inputs, options);
  if (!shared) return routed;
  const add = (a: Float64Array, b: Float64Array) => a.map((value, i) => value + b[i]!);
  return {
    ...{ ...routed, y: add(routed.y, shared.y), dx: add(routed.dx, shared.dx) },
    gradients: { ...routed.gradients, ...shared.gradients },
  };
}

function blockInputs(inputs: LayerInputs, device?: DeviceName) {
  const { config, dtype } = inputs;
  const { activation, activationLimit, activationAlpha, activationUpShift, tokens, hidden } = config;
  return {
    dy: upload(inputs.dy, [tokens, hidden], dtype, device),
    activation: { activation, activationLimit, activationAlpha, activationUpShift },
  };
}

function runRouted(inputs: LayerInputs, { device, padded = false }: Options): Outcome {
  const { config, parameters } = inputs;
  const { x, router, experts } = uploadLayer(inputs, device);
  const { weight, bias, expertScale, noiseWeight, loraA, loraB, loraScale } = router!;
  const routing = route({ x, ...router! });
  const { indices, weights, dropped, logits } = routing;
  const { experts: count, identityExperts } = config;
  const { rows } = routing.run;
  const room = padded ? { rowsPerExpert: Math.max(1, rows) } : { rows };
  const { dWeights, dx, dUp, dDown, y } = runBlock({
    ...{ ...blockInputs(inputs, device), x, weights, onInput: config.applyWeightTo === 'input' },
    dispatch: dispatch({ indices, dropped, experts: count, identityExperts, ...room }),
    layout: { gateUpLayout: config.gateUpLayout, transposed: config.transposed },
    ...{ up: experts.gateUp ?? experts.up!, upBias: experts.gateUpBias ?? experts.upBias },
    ...{ down: experts.down, downBias: experts.downBias },
  });
  const ofLogits = (values: Float32Array | undefined) =>
    values && upload(values, logits.shape, 'float32', device);
  const ofRouter = routeBackward({
    ...{ routing, dWeights, x, weight, bias, expertScale, noiseWeight, loraA, loraB, loraScale },
    ...{ dLogits: ofLogits(inputs.dLogits), dNoiseLogits: ofLogits(inputs.dNoiseLogits) },
    accumulateInto: { dx },
  });
  const { dLogits, dNoiseLogits } = ofRouter;
  free([routing.counts, routing.noiseLogits]);
  const upName = parameters['experts.up'] ? 'experts.up' : 'experts.gate_up';
  const gradients = Object.entries({
    ...{ 'router.weight': ofRouter.dWeight, 'router.bias': ofRouter.dBias },
    ...{ 'router.expert_scale': ofRouter.dExpertScale, 'router.noise_weight': ofRouter.dNoiseWeight },
    ...{ 'router.lora_a': ofRouter.dLoraA, 'router.lora_b': ofRouter.dLoraB },
    ...{ [upName]: dUp.dWeight, [`${upName}_bias`]: dUp.dBias },
    ...{ 'experts.down': dDown.dWeight, 'experts.down_bias': dDown.dBias },
  }).filter((entry): entry is [string, Tensor] => entry[1] !== undefined);
  const found = { y, dx, indices, weights, dropped, logits, dWeights, dLogits, dNoiseLogits };
  return download({ ...found, gradients: Object.fromEntries(gradients) });
}

/** Experts that every token is routed to, with the weights of a router of their own, of nothing but an expert scale, or of 1. */
function runShared(inputs: LayerInputs, { device }: Options): Pick<Outcome, 'y' | 'dx' | 'gradients'> {
  const { config, parameters, dtype } = inputs;
  const { tokens, hidden, shared } = config;
  const { intermediate, count = 1 } = shared!;
  const { x, shared: given } = uploadLayer(inputs, device);
  const { router: weight, weights: expertScale } = given!;
  // Twice σ(0) is 1.
  const logits = upload(new Float32Array(tokens * count), [tokens, count], 'float32', device);
  const uniform = { logits, topK: count, score: 'sigmoid', scale: 2, expertScale } as const;
  const gate = { x, weight: weight!, topK: count, score: 'sigmoid', expertScale } as const;
  const routing = route(weight ? gate : uniform);
  const halves = ['shared.gate', 'shared.up'].filter(name => parameters[name]);
  const size = intermediate * hidden;
  const up = Array.from({ length: count }, (_, i) =>
    halves.flatMap(name => [...parameters[name]!.values.subarray(i * size, (i + 1) * size)]),
  );
  const { dx, dUp, dDown, y, dWeights } = runBlock({
    ...{ ...blockInputs(inputs, device), x, onInput: false, weights: routing.weights },
    dispatch: dispatch({ indices: routing.indices, experts: count }),
    up: upload(up.flat(), [count, halves.length * intermediate, hidden], dtype, device),
    down: upload(parameters['shared.down']!.values, [count, hidden, intermediate], dtype, device),
  });
  const { dWeight, dExpertScale, dLogits } = routeBackward({
    ...{ routing, dWeights, expertScale },
    ...(weight && { x, weight, accumulateInto: { dx } }),
  });
  const joined = download(dUp.dWeight);
  const gradients: Outcome['gradients'] = { 'shared.down': download(dDown.dWeight) };
  for (const [half, name] of halves.entries()) {
    const parts = Array.from({ length: count }, (_, i) => {
      const start = (i * halves.length + half) * size;
      return [...joined.subarray(start, start + size)];
    });
    gradients[name] = Float64Array.from(parts.flat());
  }
  if (dWeight) gradients['shared.router'] = download(dWeight);
  if (dExpertScale) gradients['shared.weights'] = download(dExpertScale);
  free([routing, dLogits, dWeights]);
  return { ...download({ y, dx }), gradients };
}
