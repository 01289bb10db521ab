// `withUnsafeBytes` of the standard library rethrows untyped; ports throw typed.

extension [UInt8] {
  package func withRawBytes<T, E: Error>(_ body: (UnsafeRawBufferPointer) throws(E) -> T) throws(E) -> T {
    try withUnsafeBytes { raw in
      do throws(E) { return Result<T, E>.success(try body(raw)) } catch { return .failure(error) }
    }.get()
  }

  package mutating func withMutableRawBytes<T, E: Error>(
    _ body: (UnsafeMutableRawBufferPointer) throws(E) -> T
  ) throws(E) -> T {
    try withUnsafeMutableBytes { raw in
      do throws(E) { return Result<T, E>.success(try body(raw)) } catch { return .failure(error) }
    }.get()
  }
}
