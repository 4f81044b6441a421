// The layer as a framework would wire it from the stateless ops. Only the sums of the routed experts' and the shared one's
// share are left to the framework.

import {
  type ActivationOptions,
  type Dispatch,
  dispatch,
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
  up: Tensor;
  upBias?: Tensor;
  down: Tensor;
  downBias?: Tensor;
}

/** The experts over a dispatch, forward and backward. */
function runBlock(block: Block) {
  const { x, dy, dispatch, weights, onInput, activation, up, upBias, down, downBias } = block;
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
  const upArgs = { rows, weight: up, offsets, bias: upBias, ...activation, savePreActivation: true };
  const { out: activated, preActivation } = groupedMatmul(upArgs);
  const { out: outputs } = groupedMatmul({ rows: activated, weight: down, offsets, bias: downBias });
  const y = toTokens(outputs, x, !onInput);

  const dOut = toRows(dy, !onInput);
  const dDown = groupedMatmulWgrad({ dOut, rows: activated, offsets, bias: downBias !== undefined });
  const dPre = groupedMatmulDgrad({ dOut, weight: down, offsets, ...activation, preActivation });
  const dUp = groupedMatmulWgrad({ dOut: dPre, rows, offsets, bias: upBias !== undefined });
  const dRows = groupedMatmulDgrad({ dOut: dPre, weight: up, offsets });
  const dx = toTokens(dRows, dy, onInput);
  const factors = onInput ? { dy: x, rows: dRows, x: dy } : { dy, rows: outputs, x };
  const { dWeights, ...unused } = unpermuteBackward({ ...factors, dispatch, weights });
  free([rows, activated, preActivation, outputs, dOut, dPre, dRows, unused, dispatch]);
  return { y, dx, dWeights: dWeights!, dUp, dDown };
}

/** With `padded`, every expert has as many rows as it can have, used or not. */
export function runSeparateOps(inputs: LayerInputs, { padded = false } = {}): Outcome {
  const routed = runRouted(inputs, padded);
  const shared = inputs.config.shared && runShared(inputs);
  if (!shared) return routed;
  const add = (a: Float64Array, b: Float64Array) => a.map((value, i) => value + b[i]!);
  return {
    ...{ ...routed, y: add(routed.y, shared.y), dx: add(routed.dx, shared.dx) },
    gradients: { ...routed.gradients, ...shared.gradients },
  };
}

function blockInputs(inputs: LayerInputs) {
  const { config, dtype } = inputs;
  const { activation, activationLimit, activationAlpha, activationUpShift, tokens, hidden } = config;
  return {
    dy: upload(inputs.dy, [tokens, hidden], dtype),
    activation: { activation, activationLimit, activationAlpha, activationUpShift },
  };
}

function runRouted(inputs: LayerInputs, padded: boolean): Outcome {
  const { config, parameters } = inputs;
  const { x, router, experts } = uploadLayer(inputs);
  const { weight, bias, expertScale, noiseWeight, loraA, loraB, loraScale } = router!;
  const routing = route({ x, ...router! });
  const { indices, weights, dropped, logits } = routing;
  const { experts: count, identityExperts } = config;
  const { rows } = routing.run;
  const room = padded ? { rowsPerExpert: Math.max(1, rows) } : { rows };
  const { dWeights, dx, dUp, dDown, y } = runBlock({
    ...{ ...blockInputs(inputs), x, weights, onInput: config.applyWeightTo === 'input' },
    dispatch: dispatch({ indices, dropped, experts: count, identityExperts, ...room }),
    ...{ up: experts.gateUp ?? experts.up!, upBias: experts.gateUpBias ?? experts.upBias },
    ...{ down: experts.down, downBias: experts.downBias },
  });
  const ofLogits = (values: Float32Array | undefined) => values && upload(values, logits.shape, 'float32');
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

/** One expert whose rows are the tokens, in their order; its gate, if it has one, is a router of one expert. */
function runShared(inputs: LayerInputs): Pick<Outcome, 'y' | 'dx' | 'gradients'> {
  const { config, parameters, dtype } = inputs;
  const { tokens, hidden, shared } = config;
  const { x, shared: given } = uploadLayer(inputs);
  const halves = ['shared.gate', 'shared.up'].filter(name => parameters[name]);
  const up = halves.flatMap(name => [...parameters[name]!.values]);
  const down = parameters['shared.down']!.values;
  const gate = given!.router && route({ x, weight: given!.router, topK: 1, score: 'sigmoid' });
  const indices = upload(new Int32Array(tokens), [tokens, 1], 'int32');
  const { dx, dUp, dDown, y, dWeights } = runBlock({
    ...{ ...blockInputs(inputs), x, onInput: false, dispatch: dispatch({ indices, experts: 1 }) },
    weights: gate?.weights ?? upload(new Float32Array(tokens).fill(1), [tokens, 1], 'float32'),
    up: upload(up, [1, halves.length * shared!.intermediate, hidden], dtype),
    down: upload(down, [1, hidden, shared!.intermediate], dtype),
  });
  const ofGate =
    gate && routeBackward({ routing: gate, dWeights, x, weight: given!.router, accumulateInto: { dx } });
  const gradients: Outcome['gradients'] = { 'shared.down': download(dDown.dWeight) };
  const joined = download(dUp.dWeight);
  const size = joined.length / halves.length;
  for (const [i, name] of halves.entries()) gradients[name] = joined.slice(i * size, (i + 1) * size);
  if (ofGate) gradients['shared.router'] = download(ofGate.dWeight!);
  free([gate, ofGate?.dLogits, dWeights]);
  return { ...download({ y, dx }), gradients };
}
