// What `moe-kernels bench --list` prints: the shapes that have names.

import { describeRouter, plainDesign } from '../../bench/layer-design.ts';
import { MODEL_LAYERS } from '../../bench/model-layers.ts';
import { SHAPES } from '../../bench/shapes.ts';
import { printJson, printLine, printPlainTable } from './output.ts';

const HEAD = ['shape', 'T', 'H', 'I', 'E', 'K', 'activation, router'];

export function printShapes({ json }: { json: boolean }): void {
  const minis = Object.entries(SHAPES).map(([name, shape]) => ({ name, shape, design: plainDesign(shape) }));
  const models = [...MODEL_LAYERS].map(([name, layer]) => ({ name, ...layer }));
  const all = [...minis, ...models];
  if (json) {
    for (const { name, shape, design } of all) printJson({ shape: name, ...shape, ...design });
    return;
  }
  const rows = all
    .filter(({ name }) => !name.includes(':'))
    .map(({ name, shape, design }) => {
      const { tokens, hidden, intermediate, experts, topK, activation } = shape;
      const sizes = [tokens, hidden, intermediate, experts, topK].map(String);
      return [name, ...sizes, `${activation}, ${describeRouter(design)}`];
    });
  printPlainTable(HEAD, rows, ['left', 'right', 'right', 'right', 'right', 'right', 'left']);
  printLine('\nOf models also NAME:decode, with one token.');
}
