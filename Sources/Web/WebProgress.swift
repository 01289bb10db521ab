import Core
import NIOCore
import Synchronization

/// When bytes of a request or its answer last moved.
final class WebProgress: Sendable {
  private let time: any Timekeeper
  private let last: Atomic<Int64>

  init(_ time: any Timekeeper) {
    self.time = time
    last = Atomic(time.monotonicNanoseconds())
  }

  func moved() { last.store(time.monotonicNanoseconds(), ordering: .relaxed) }

  /// Runs an exchange, and gives it up when its limit has passed, or when nothing has moved for too long.
  ///
  /// - Throws: `.timeLimit`, `.stalled`; whatever `body` throws otherwise.
  static func watching<T: Sendable>(
    _ request: WebRequest, _ time: any Timekeeper, _ body: @escaping @Sendable (WebProgress) async throws -> T
  ) async throws -> T {
    let progress = WebProgress(time)
    return try await withThrowingTaskGroup(of: T?.self) { group in
      group.addTask { try await body(progress) }
      group.addTask {
        let start = time.monotonicNanoseconds()
        while true {
          let now = time.monotonicNanoseconds()
          let left = start + request.timeLimit.wholeNanoseconds - now
          let patience = progress.last.load(ordering: .relaxed) + request.stallLimit.wholeNanoseconds - now
          if left <= 0 { throw WebFailure.timeLimit(request.timeLimit) }
          if patience <= 0 { throw WebFailure.stalled(request.stallLimit) }
          try await time.sleep(for: .nanoseconds(min(left, patience)))
        }
      }
      defer { group.cancelAll() }
      guard let first = try await group.next(), let value = first else { throw CancellationError() }
      return value
    }
  }
}

/// The bytes of a body, a piece at a time, so that it shows how far it has come.
struct WebBodyPieces: AsyncSequence, Sendable {
  typealias Element = ByteBuffer
  static let pieceBytes = 256 << 10

  let bytes: [UInt8]
  let progress: WebProgress

  struct AsyncIterator: AsyncIteratorProtocol {
    var rest: ByteBuffer
    let progress: WebProgress

    mutating func next() async -> ByteBuffer? {
      progress.moved()
      return rest.readableBytes == 0 ? nil : rest.readSlice(length: Swift.min(rest.readableBytes, pieceBytes))
    }
  }

  func makeAsyncIterator() -> AsyncIterator { AsyncIterator(rest: ByteBuffer(bytes: bytes), progress: progress) }
}
