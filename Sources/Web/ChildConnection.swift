import Core
import NIOCore
import NIOHTTP1
import NIOHTTP2
import NIOPosix
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// One life of a child that serves HTTP/2, and the connection to it.
final class ChildConnection: Sendable {
  private typealias Stream = NIOAsyncChannel<HTTPClientResponsePart, HTTPClientRequestPart>

  private let channel: any Channel
  private let streams: NIOHTTP2Handler.AsyncStreamMultiplexer<Stream>
  private let said: ChildWords
  private let name: String
  private let answered = Atomic(false)
  /// Whether it called its end a success; comes after its end.
  private let ending: EventLoopPromise<Bool>

  /// Bytes that may be under way in each stream.
  private static let windowBytes = 1 << 20

  /// Starts a program.
  ///
  /// The connection stands before it starts: a server waits for its client's first words for some seconds only.
  ///
  /// - Parameters:
  ///   - log: Takes each line of the child's standard error.
  ///   - start: Runs what it is given where that may block.
  init(
    _ program: ChildProgram, log: @escaping @Sendable (String) -> Void,
    start: (@escaping @Sendable () throws(WebFailure) -> pid_t) async throws(WebFailure) -> pid_t
  ) async throws(WebFailure) {
    let loop = MultiThreadedEventLoopGroup.singleton.next()
    let ends = try ChildEnds()
    name = program.name
    said = ChildWords(log: log, closed: loop.makePromise())
    ending = loop.makePromise()
    let (said, ending) = (said, ending)
    do {
      let errors = try await NIOPipeBootstrap(group: loop).takingOwnershipOfDescriptor(input: ends.errors) { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(ChildWords.Reader(said))
          return channel
        }
      }
      errors.closeFuture.cascade(to: said.closed)
      (channel, streams) = try await NIOPipeBootstrap(group: loop).takingOwnershipOfDescriptors(
        input: ends.output, output: ends.input
      ) { channel in
        var configuration = NIOHTTP2Handler.Configuration()
        configuration.connection.initialSettings = [
          HTTP2Setting(parameter: .enablePush, value: 0), HTTP2Setting(parameter: .maxHeaderListSize, value: 65_536),
          HTTP2Setting(parameter: .initialWindowSize, value: Self.windowBytes),
        ]
        configuration.stream.targetWindowSize = Self.windowBytes
        return channel.configureAsyncHTTP2Pipeline(mode: .client, configuration: configuration) { stream in
          // It has nothing to ask of us, and was told so.
          stream.eventLoop.makeCompletedFuture { try Self.wrapped(stream) }
        }.map { (channel, $0) }
      }
    } catch {
      ends.closeTheirs()
      said.closed.succeed()
      ending.succeed(false)
      throw .connection("\(program.name) can't be spoken to: \(error)")
    }
    let pid: pid_t
    do throws(WebFailure) {
      pid = try await start { () throws(WebFailure) in try program.start(ends) }
    } catch {
      ending.succeed(false)
      channel.close(promise: nil)
      throw error
    }
    Self.see(pid, off: channel, ending)
  }

  /// Once its pipes are closed the child has some time to end, and is then killed.
  private static func see(_ pid: pid_t, off channel: any Channel, _ ending: EventLoopPromise<Bool>) {
    let isThere = Presence()
    let loop = channel.eventLoop
    channel.closeFuture.whenComplete { _ in
      loop.scheduleTask(in: .seconds(5)) { isThere.state.withLock { if $0 { kill(pid, SIGKILL) } } }
      NIOThreadPool.singleton.submit { _ in
        ending.succeed(ChildProgram.reap(pid) { isThere.state.withLock { $0 = false } })
      }
    }
  }

  private final class Presence: Sendable { let state = Mutex(true) }

  deinit { channel.close(promise: nil) }

  var isOpen: Bool { channel.isActive }

  private static func wrapped(_ stream: any Channel) throws -> Stream {
    try stream.pipeline.syncOperations.addHandler(HTTP2FramePayloadToHTTP1ClientCodec(httpProtocol: .http))
    return try Stream(wrappingChannelSynchronously: stream)
  }

  // MARK: Requests

  func exchange(_ request: WebRequest, _ progress: WebProgress) async throws -> WebResponse {
    let stream = try await streams.openStream { stream in
      stream.eventLoop.makeCompletedFuture { try Self.wrapped(stream) }
    }
    let response = try await stream.executeThenClose { inbound, outbound in
      do {
        try await Self.send(request, progress, outbound)
      } catch is CancellationError {
        throw CancellationError()
      } catch {
        // It may have answered before it had heard everything.
        guard let answer = try? await Self.receive(request, progress, inbound) else { throw error }
        return answer
      }
      return try await Self.receive(request, progress, inbound)
    }
    answered.store(true, ordering: .relaxed)
    return response
  }

  private static func send(
    _ request: WebRequest, _ progress: WebProgress, _ outbound: NIOAsyncChannelOutboundWriter<HTTPClientRequestPart>
  ) async throws {
    var head = HTTPRequestHead(
      version: .http2, method: HTTPMethod(rawValue: request.method.rawValue.uppercased()), uri: request.target)
    head.headers.add(name: "host", value: "localhost")
    for (name, value) in request.headers { head.headers.add(name: name, value: value) }
    if let body = request.body { head.headers.add(name: "content-length", value: "\(body.count)") }
    try await outbound.write(.head(head))
    if let body = request.body {
      for await piece in WebBodyPieces(bytes: body, progress: progress) {
        try await outbound.write(.body(.byteBuffer(piece)))
      }
    }
    try await outbound.write(.end(nil))
    progress.moved()
  }

  private static func receive(
    _ request: WebRequest, _ progress: WebProgress, _ inbound: NIOAsyncChannelInboundStream<HTTPClientResponsePart>
  ) async throws -> WebResponse {
    var collected: CollectedResponse?
    for try await part in inbound {
      progress.moved()
      switch part {
      case .head(let head):
        var headers: [String: String] = [:]
        for (name, value) in head.headers { headers[name.lowercased()] = value }
        // 100 and its like are not the answer.
        if head.status.code >= 200 {
          collected = try CollectedResponse(status: Int(head.status.code), headers: headers, to: request)
        }
      case .body(let buffer): try collected?.append(buffer)
      case .end:
        guard let collected else { throw WebFailure.connection("an answer without a beginning") }
        return try collected.whole()
      }
    }
    try Task.checkCancellation()
    throw WebFailure.connection("the answer ended before it was complete")
  }

  /// Why an exchange failed, with what the child said last if it is gone.
  func failure(_ error: any Error, _ request: WebRequest) async -> WebFailure {
    switch error {
    case let failure as WebFailure where isOpen: return failure
    case is CancellationError: return .cancelled
    case let failure as WebFailure:
      switch failure {
      case .connection: break
      default: return failure
      }
    default: if isOpen { return Task.isCancelled ? .cancelled : .connection("\(error)") }
    }
    // What it had to say may come after its end.
    try? await said.closed.futureResult.get()
    let isSuccess = (try? await ending.futureResult.get()) ?? false
    let reason = "\(name) ended\(said.last.map { ": \($0)" } ?? "")"
    // One that failed before it ever answered will do so again.
    return answered.load(ordering: .relaxed) || isSuccess ? .connection(reason) : .address(reason)
  }
}

extension WebRequest {
  /// Path and query of the address.
  fileprivate var target: String {
    guard let authority = url.range(of: "://") else { return url }
    return url[authority.upperBound...].firstIndex(of: "/").map { String(url[$0...]) } ?? "/"
  }
}
