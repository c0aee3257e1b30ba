/** The package has no types for this file. */
declare module "onnxruntime-web/ort-wasm-simd-threaded.mjs" {
  const factory: (options: object) => Promise<unknown>;
  export default factory;
}
