// Loads one layer of the file given, and prints by how many bytes the peak of the resident memory grew.

import { loadExperts, presets, withOverrides } from '../../../src/index.ts';

const [file, sizes, dtype] = process.argv.slice(2) as [string, string, 'bfloat16' | 'float32'];
const config = withOverrides(presets.mixtral8x7b, JSON.parse(sizes));
const before = process.resourceUsage().maxRSS;
using layer = await loadExperts(file, config, { layer: 0, dtype });
const grown = (process.resourceUsage().maxRSS - before) * 1024;
const down = layer.parameters['experts.down']!.dataSync();
console.log(JSON.stringify({ grown, last: down.at(-1) }));
