import Core

/// Sends requests to a program of its own, which serves HTTP/2 on its standard input and output.
///
/// The program starts with the first request, and again with the first one after it has ended. It ends when this client
/// is let go, or when this process ends, in whatever way: its standard input ends then.
package actor ChildWebClient: WebTransport {
  package typealias Starting = @Sendable () throws(WebFailure) -> Int32

  private let program: ChildProgram
  private let time: any Timekeeper
  private let log: @Sendable (String) -> Void
  private let start: @Sendable (@escaping Starting) async throws(WebFailure) -> Int32
  private var connection: ChildConnection?
  private var isStarting = false
  private var waiting: [CheckedContinuation<Void, Never>] = []

  /// - Parameters:
  ///   - log: Takes each line the program says.
  ///   - start: Runs what it is given where that may block.
  package init(
    _ program: ChildProgram, time: any Timekeeper, log: @escaping @Sendable (String) -> Void,
    start: @escaping @Sendable (@escaping Starting) async throws(WebFailure) -> Int32
  ) {
    (self.program, self.time, self.log, self.start) = (program, time, log, start)
  }

  package func send(_ request: WebRequest) async throws(WebFailure) -> WebResponse {
    let connection = try await connected()
    do {
      return try await WebProgress.watching(request, time) { try await connection.exchange(request, $0) }
    } catch {
      throw await connection.failure(error, request)
    }
  }

  private func connected() async throws(WebFailure) -> ChildConnection {
    while isStarting { await withCheckedContinuation { waiting.append($0) } }
    if let connection, connection.isOpen { return connection }
    isStarting = true
    defer {
      isStarting = false
      for one in waiting { one.resume() }
      waiting = []
    }
    let made = try await ChildConnection(program, log: log, start: start)
    connection = made
    return made
  }
}
