// What the documents say of the routers is what the code knows.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ROUTER_NAMES } from '../../examples/train-bytes/routers.ts';
import { presets } from '../../src/index.ts';
import { type LayerRouter, resolveConfig } from '../../src/layer-config.ts';
import { ROUTER_KEYS, SCORES } from '../../src/router.ts';
import { NOISE_KINDS } from '../../src/router-noise.ts';
import { REPOSITORY } from '../support/child.ts';

const read = (name: string) => readFileSync(join(REPOSITORY, 'docs', name), 'utf8');

describe('docs/routers.md', () => {
  const text = read('routers.md');

  it.each([...ROUTER_KEYS, ...SCORES, ...NOISE_KINDS])('names %s', name => {
    expect(text).toMatch(new RegExp(`[\`']${name}\\b`));
  });

  const [, models] = text.split('## Which model is which description');
  const descriptions = [...models!.matchAll(/`([^`]+: [^`]+)`/g)].map(([, description]) => description!);

  it('describes models', () => expect(descriptions.length).toBeGreaterThan(12));

  it.each(descriptions)('%s is a router', description => {
    const options = new Function('E', 'K', 'p', `return { ${description} }`)(64, 2, 0.5) as object;
    const { topK, ...router } = options as LayerRouter & { topK?: number };
    const sizes = { hidden: 8, intermediate: 8, experts: 64, ...(topK && { topK }) };
    expect(() => resolveConfig({ ...sizes, router })).not.toThrow();
  });
});

it.each(Object.keys(presets))('docs/models.md has a row for %s', name => {
  expect(read('models.md')).toContain(`\n| \`${name}\` `);
});

it.each(ROUTER_NAMES)('docs/training.md says what became of %s', name => {
  expect(read('training.md')).toMatch(
    new RegExp(`\\n\\| \`${name}\` +\\| [\\d.]+ +\\| [\\d.]+ +\\| [\\d.]+ +\\|`),
  );
});
