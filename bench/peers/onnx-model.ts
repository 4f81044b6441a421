// An ONNX model of one MoE layer, written field by field: y = MoE(x, Gemm(x, router)), weights beside it in files of raw float32.
// Field numbers from onnx.proto (onnx/onnx); the operator is described in ONNX Runtime's ContribOperators.md, com.microsoft.MoE.

import type { LayerShape } from '../shapes.ts';

/** Encoded as protocol buffers demand: a tag of field number and wire type, then the value. */
const VARINT = 0;
const LENGTH_DELIMITED = 2;
const FIXED_32 = 5;

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes.push((rest % 0x80) | 0x80);
  return Buffer.from([...bytes, rest]);
}

const tag = (field: number, wireType: number) => varint((field << 3) | wireType);
const integer = (field: number, value: number) => Buffer.concat([tag(field, VARINT), varint(value)]);

function float(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return Buffer.concat([tag(field, FIXED_32), bytes]);
}

/** A string, or a message made of its fields. */
function nested(field: number, content: string | readonly Buffer[]): Buffer {
  const bytes = typeof content === 'string' ? Buffer.from(content) : Buffer.concat(content);
  return Buffer.concat([tag(field, LENGTH_DELIMITED), varint(bytes.length), bytes]);
}

type Attribute = readonly [name: string, value: number | string, type: 'float' | 'int' | 'string'];

function attribute([name, value, type]: Attribute): Buffer {
  const encoded = {
    float: () => [float(2, value as number), integer(20, 1)],
    int: () => [integer(3, value as number), integer(20, 2)],
    string: () => [nested(4, value as string), integer(20, 3)],
  }[type]();
  return nested(5, [nested(1, name), ...encoded]);
}

interface Node {
  readonly operator: string;
  readonly domain?: string;
  /** An empty name is an input left out. */
  readonly inputs: readonly string[];
  readonly output: string;
  readonly attributes: readonly Attribute[];
}

function node({ operator, domain = '', inputs, output, attributes }: Node): Buffer {
  return nested(1, [
    ...inputs.map(name => nested(1, name)),
    nested(2, output),
    nested(4, operator),
    nested(7, domain),
    ...attributes.map(attribute),
  ]);
}

const FLOAT = 1;
const EXTERNAL = 1;

/** A weight that lies in the file of that name beside the model. */
function weight(name: string, dimensions: readonly number[], file: string): Buffer {
  return nested(5, [
    ...dimensions.map(size => integer(1, size)),
    integer(2, FLOAT),
    nested(8, name),
    nested(13, [nested(1, 'location'), nested(2, file)]),
    integer(14, EXTERNAL),
  ]);
}

/** An input (field 11) or output (field 12) of the graph. */
function port(field: number, name: string, dimensions: readonly number[]): Buffer {
  const shape = dimensions.map(size => nested(1, [integer(1, size)]));
  return nested(field, [nested(1, name), nested(2, [nested(1, [integer(1, FLOAT), nested(2, shape)])])]);
}

/** The files of the weights; gate and up rows of `up` alternate where the activation is gated. */
export interface WeightFiles {
  readonly router: string;
  readonly up: string;
  readonly down: string;
}

/** `activation` and what goes with it, in the operator's words. */
export function moeModel(shape: LayerShape, activation: readonly Attribute[], files: WeightFiles): Buffer {
  const { tokens: T, hidden: H, intermediate: I, experts: E, topK } = shape;
  const gated = shape.activation === 'swiglu';
  const moe: Node = {
    ...{ operator: 'MoE', domain: 'com.microsoft' },
    inputs: ['x', 'logits', 'up', '', 'down'],
    output: 'y',
    attributes: [['k', topK, 'int'], ['normalize_routing_weights', topK > 1 ? 1 : 0, 'int'], ...activation],
  };
  const logits: Node = {
    operator: 'Gemm',
    inputs: ['x', 'router'],
    output: 'logits',
    attributes: [['transB', 1, 'int']],
  };
  const graph = [
    ...[node(logits), node(moe), nested(2, 'moe')],
    weight('router', [E, H], files.router),
    weight('up', [E, gated ? 2 * I : I, H], files.up),
    weight('down', [E, H, I], files.down),
    ...[port(11, 'x', [T, H]), port(12, 'y', [T, H])],
  ];
  const operators = (domain: string, version: number) => nested(8, [nested(1, domain), integer(2, version)]);
  return Buffer.concat([integer(1, 8), nested(7, graph), operators('', 17), operators('com.microsoft', 1)]);
}
