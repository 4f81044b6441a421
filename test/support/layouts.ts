// A layer's experts in another layout: written apart from the reference, to hold it and the kernels against.

import type { LayerConfig, LayerInputs } from './layer.ts';

export interface Layout extends Pick<LayerConfig, 'gateUpLayout' | 'transposed'> {
  /** Gate and up in two tensors. */
  separate?: boolean;
}

type Floats = Float32Array | Float64Array;
interface Rows<V extends Floats> {
  /** [E, rows, columns], or [E, rows] */
  shape: number[];
  values: V;
}

/** The same problem; its own layout is the plain one, with gate and up packed and no pair beside them if they are to be apart. */
export function inLayout(inputs: LayerInputs, layout: Layout): LayerInputs {
  const parameters: LayerInputs['parameters'] = {};
  for (const [name, { dtype, ...plain }] of Object.entries(inputs.parameters)) {
    for (const [part, stored] of Object.entries(tensorInLayout(name, plain, layout))) {
      parameters[part] = { dtype, ...stored };
    }
  }
  return { ...inputs, config: { ...inputs.config, ...layout }, parameters };
}

/** What becomes of one parameter, or its gradient: one tensor or two, by name. */
export function tensorInLayout<V extends Floats>(
  name: string,
  plain: Rows<V>,
  layout: Layout,
): { [name: string]: Rows<V> } {
  const stored: { [name: string]: Rows<V> } = {};
  for (const [part, rows] of Object.entries(partsOf(name, plain.shape, layout))) {
    const taken = rows ? takeRows(plain, rows) : plain;
    const turned = layout.transposed && /^experts\.(gate_up|gate|up|down)$/.test(part);
    stored[part] = turned ? transpose(taken) : taken;
  }
  return stored;
}

/** The plain rows of each tensor that a parameter becomes; undefined for all of them, in their order. */
function partsOf(
  name: string,
  shape: readonly number[],
  { gateUpLayout, separate }: Layout,
): { [name: string]: readonly number[] | undefined } {
  if (!/^experts\.gate_up(_bias|\.lora_b)?$/.test(name)) return { [name]: undefined };
  const half = shape[1]! / 2;
  const gate = Array.from({ length: half }, (_, i) => i);
  const up = gate.map(i => half + i);
  if (separate) return { [name.replace('gate_up', 'gate')]: gate, [name.replace('gate_up', 'up')]: up };
  return { [name]: gateUpLayout === 'interleaved' ? gate.flatMap(i => [i, half + i]) : undefined };
}

function takeRows<V extends Floats>({ shape, values }: Rows<V>, rows: readonly number[]): Rows<V> {
  const [experts, count, columns = 1] = shape as [number, number, number?];
  const taken = values.slice(0, experts * rows.length * columns) as V;
  for (let e = 0; e < experts; e++) {
    for (const [i, row] of rows.entries()) {
      const from = (e * count + row) * columns;
      taken.set(values.subarray(from, from + columns), (e * rows.length + i) * columns);
    }
  }
  return { shape: [experts, rows.length, ...shape.slice(2)], values: taken };
}

/** [E, N, C] as [E, C, N]. */
export function transpose<V extends Floats>({ shape, values }: Rows<V>): Rows<V> {
  const [experts, rows, columns] = shape as [number, number, number];
  const size = rows * columns;
  const turned = values.map((_, at) => {
    const [e, column, row] = [Math.floor(at / size), Math.floor((at % size) / rows), at % rows];
    return values[e * size + row * columns + column]!;
  }) as V;
  return { shape: [experts, columns, rows], values: turned };
}
