/// Memory that is used over and over: a page that was touched once costs nothing the next time. Not thread-safe.
final class Scratch {
  private var memory = UnsafeMutableRawBufferPointer(start: nil, count: 0)

  deinit { memory.deallocate() }

  /// At least `count` bytes, with what was there before or anything else in them.
  func bytes(_ count: Int) -> UnsafeMutableRawBufferPointer {
    if memory.count < count {
      memory.deallocate()
      memory = .allocate(byteCount: max(count, min(2 * memory.count, count + 1 << 20)), alignment: 4096)
    }
    return UnsafeMutableRawBufferPointer(rebasing: memory[..<count])
  }

  /// Gives back what is more than most uses need.
  func trim(to limit: Int) {
    guard memory.count > limit else { return }
    memory.deallocate()
    memory = UnsafeMutableRawBufferPointer(start: nil, count: 0)
  }
}
