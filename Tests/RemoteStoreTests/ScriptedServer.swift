import Core
import NIOCore
import NIOPosix
import Synchronization

/// A server that answers as a test wants it to, byte by byte: for what real servers do only when they fail.
final class ScriptedServer: Sendable {
  struct Request: Sendable {
    var method: String
    var path: String
    var headers: [String: String]
    var body: [UInt8]
  }

  enum Step: Sendable {
    case send(String)
    case sendBytes([UInt8])
    case close
    /// As a machine that went down and came up again does.
    case reset
    /// Nothing more is sent, and the connection stays open.
    case stall
    /// The following ones come later.
    case pause(milliseconds: Int)
  }

  private let requestsSeen = Mutex<[Request]>([])
  private let channel: any Channel
  let port: Int
  var url: String { "http://127.0.0.1:\(port)" }
  var requests: [Request] { requestsSeen.withLock { $0 } }

  /// - Parameter script: What to do about a request; the number counts from 1.
  static func with<T>(
    _ script: @escaping @Sendable (Request, Int) -> [Step], _ body: (ScriptedServer) async throws -> T
  ) async throws -> T {
    let server = try await ScriptedServer(script)
    do {
      let result = try await body(server)
      try await server.channel.close()
      return result
    } catch {
      try await server.channel.close()
      throw error
    }
  }

  private init(_ script: @escaping @Sendable (Request, Int) -> [Step]) async throws {
    let relay = Relay()
    channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(Handler { script($0, relay.note($0)) })
        }
      }
      .bind(host: "127.0.0.1", port: 0).get()
    port = channel.localAddress?.port ?? 0
    relay.target.withLock { $0 = { [weak self] in self?.note($0) ?? 0 } }
  }

  private func note(_ request: Request) -> Int {
    requestsSeen.withLock { seen in
      seen.append(request)
      return seen.count
    }
  }

  private final class Relay: Sendable {
    let target = Mutex<(@Sendable (Request) -> Int)?>(nil)
    func note(_ request: Request) -> Int { target.withLock { $0 }?(request) ?? 0 }
  }

  private final class Handler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer
    private let answer: @Sendable (Request) -> [Step]
    private var received: [UInt8] = []

    init(_ answer: @escaping @Sendable (Request) -> [Step]) { self.answer = answer }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      received += Array(unwrapInboundIn(data).readableBytesView)
      while let request = take() { perform(answer(request), context) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    private func take() -> Request? {
      guard let end = received.indices.dropLast(3).first(where: { Array(received[$0..<$0 + 4]) == [13, 10, 13, 10] })
      else { return nil }
      let lines = String(decoding: received[..<end], as: UTF8.self).split(separator: "\r\n").map(String.init)
      var headers: [String: String] = [:]
      for line in lines.dropFirst() {
        let parts = line.split(separator: ":", maxSplits: 1).map(String.init)
        headers[parts[0].lowercased()] = parts.count > 1 ? String(parts[1].drop { $0 == " " }) : ""
      }
      let length = headers["content-length"].flatMap { Int($0) } ?? 0
      guard received.count >= end + 4 + length else { return nil }
      let body = Array(received[end + 4..<end + 4 + length])
      received.removeFirst(end + 4 + length)
      let words = lines[0].split(separator: " ").map(String.init)
      return Request(method: words[0], path: words[1], headers: headers, body: body)
    }

    private func perform(_ steps: [Step], _ context: ChannelHandlerContext) {
      for (number, step) in steps.enumerated() {
        switch step {
        case .send(let text): context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: text)), promise: nil)
        case .sendBytes(let bytes): context.writeAndFlush(wrapOutboundOut(ByteBuffer(bytes: bytes)), promise: nil)
        case .close: context.close(promise: nil)
        case .reset:
          if let options = context.channel as? any SocketOptionProvider {
            _ = options.setSoLinger(linger(l_onoff: 1, l_linger: 0))
          }
          context.close(promise: nil)
        case .stall: break
        case .pause(let milliseconds):
          let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
          let rest = Array(steps.dropFirst(number + 1))
          context.eventLoop.scheduleTask(in: .milliseconds(Int64(milliseconds))) {
            bound.value.0.perform(rest, bound.value.1)
          }
          return
        }
      }
    }
  }

  static func response(_ status: Int, _ body: String = "", headers: [String] = []) -> Step {
    .send(
      (["HTTP/1.1 \(status) X", "Content-Length: \(body.utf8.count)"] + headers).joined(separator: "\r\n")
        + "\r\n\r\n" + body)
  }
}

#if canImport(Glibc)
  import Glibc
#endif
