// `every-product.ts BINARY LOG`: fails unless every tile of the grouped products in the binary is in the log of launches.

import { isProduct, kernelsOf } from './kernels.ts';

const [binary, log] = process.argv.slice(2) as [string, string];
const kernels = kernelsOf(binary, log).filter(isProduct);
const forgotten = kernels.filter(({ ran }) => !ran);
for (const { name } of forgotten) console.error(`never launched: ${name}`);
console.log(`${kernels.length - forgotten.length} of ${kernels.length} products ran`);
process.exitCode = kernels.length > 0 && forgotten.length === 0 ? 0 : 1;
