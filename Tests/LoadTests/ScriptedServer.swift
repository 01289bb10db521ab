import Core
import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization

/// An HTTP server whose every answer, and how long it takes, a test decides.
final class ScriptedServer: Sendable {
  struct Request: Sendable {
    /// From 0.
    var number: Int
    var method: String
    var path: String
    var headers: HTTPHeaders
    var body: String
    /// Since the first.
    var at: Duration
  }

  struct Answer: Sendable {
    var status = 200
    var body = "{}"
    var headers: [String: String] = [:]
    var after: Duration = .zero
    /// No answer at all.
    var hangsUp = false
  }

  private struct Seen {
    var requests: [Request] = []
    var first: Int64?
  }

  private let seen = Mutex(Seen())
  private let script: @Sendable (Request) -> Answer
  var requests: [Request] { seen.withLock(\.requests) }

  private init(_ script: @escaping @Sendable (Request) -> Answer) { self.script = script }

  /// - Parameter body: Given the server and its address.
  static func with<T>(
    _ script: @escaping @Sendable (Request) -> Answer, _ body: (ScriptedServer, _ url: String) async throws -> T
  ) async throws -> T {
    let server = ScriptedServer(script)
    let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .serverChannelOption(.backlog, value: 256)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.configureHTTPServerPipeline()
          try channel.pipeline.syncOperations.addHandler(Handler(server))
        }
      }.bind(host: "127.0.0.1", port: 0).get()
    let result: Result<T, any Error>
    do { result = .success(try await body(server, "http://127.0.0.1:\(channel.localAddress?.port ?? 0)")) } catch {
      result = .failure(error)
    }
    try await channel.close()
    return try result.get()
  }

  private func answer(_ head: HTTPRequestHead, _ body: String) -> Answer {
    let now = SystemTime().monotonicNanoseconds()
    let request = seen.withLock { seen in
      if seen.first == nil { seen.first = now }
      let request = Request(
        number: seen.requests.count, method: head.method.rawValue, path: head.uri, headers: head.headers, body: body,
        at: .nanoseconds(now - (seen.first ?? now)))
      seen.requests.append(request)
      return request
    }
    return script(request)
  }

  private final class Handler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart
    private let server: ScriptedServer
    private var head: HTTPRequestHead?
    private var body = ""

    init(_ server: ScriptedServer) { self.server = server }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      switch unwrapInboundIn(data) {
      case .head(let head): (self.head, body) = (head, "")
      case .body(let buffer): body += String(buffer: buffer)
      case .end:
        guard let head else { return }
        let answer = server.answer(head, body)
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        context.eventLoop.scheduleTask(in: .nanoseconds(answer.after.wholeNanoseconds)) {
          bound.value.0.send(answer, bound.value.1)
        }
      }
    }

    private func send(_ answer: Answer, _ context: ChannelHandlerContext) {
      if answer.hangsUp { return context.close(promise: nil) }
      var headers = HTTPHeaders(answer.headers.map { ($0.key, $0.value) })
      headers.replaceOrAdd(name: "content-length", value: "\(answer.body.utf8.count)")
      context.write(
        wrapOutboundOut(.head(.init(version: .http1_1, status: .init(statusCode: answer.status), headers: headers))),
        promise: nil)
      context.write(wrapOutboundOut(.body(.byteBuffer(ByteBuffer(string: answer.body)))), promise: nil)
      context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
  }
}
