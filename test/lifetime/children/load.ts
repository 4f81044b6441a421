// Loads the package and prints what it threw.

await import('../../../src/index.ts').then(
  () => console.log('loaded'),
  ({ name, code, message }) => console.log(JSON.stringify({ name, code, message })),
);
