import NIOCore
import Synchronization

/// What a child says on its standard error: each line goes to a log, the last one is kept.
final class ChildWords: Sendable {
  private static let lineLimitBytes = 1000

  let closed: EventLoopPromise<Void>
  private let log: @Sendable (String) -> Void
  private let lastLine = Mutex(String?.none)

  init(log: @escaping @Sendable (String) -> Void, closed: EventLoopPromise<Void>) {
    (self.log, self.closed) = (log, closed)
  }

  var last: String? { lastLine.withLock { $0 } }

  private func take(_ line: [UInt8]) {
    let text = String(
      String(decoding: line, as: UTF8.self).unicodeScalars.filter { $0.value >= 32 && $0.value != 127 }
        .map(Character.init))
    guard !text.isEmpty else { return }
    lastLine.withLock { $0 = text }
    log(text)
  }

  final class Reader: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private let words: ChildWords
    private var line: [UInt8] = []

    init(_ words: ChildWords) { self.words = words }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      for byte in unwrapInboundIn(data).readableBytesView {
        if byte == 10 {
          words.take(line)
          line = []
        } else if line.count < ChildWords.lineLimitBytes {
          line.append(byte)
        }
      }
    }

    func channelInactive(context: ChannelHandlerContext) {
      words.take(line)
      context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
  }
}
