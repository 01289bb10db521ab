import Core
import Foundation
import IO
import Synchronization
import TestSupport
import Testing

@testable import DriverRedis

/// A Redis server beside a ``LogSite`` that follows it.
final class RedisSite: @unchecked Sendable {
  // Used by one task at a time.
  let site: LogSite
  let server: RedisServer
  private var writer: RedisWriter?

  private init(_ settings: RedisServer.Settings) async throws {
    let server = try await BlockingPool.shared.run { try RedisServer(settings) }
    self.server = server
    site = try await LogSite { _ in Self.store(server) }
  }

  static func store(_ server: RedisServer, _ more: String = "") -> String {
    "redis: {port: \(server.port), dataDirectory: \"\(server.dataDirectory)\", configFile: \"\(server.configFile)\"\(more)}"
  }

  /// Ends everything, whatever happened.
  static func with(_ settings: RedisServer.Settings = .init(), _ body: (RedisSite) async throws -> Void) async throws {
    let site = try await RedisSite(settings)
    do { try await body(site) } catch {
      print(site.site.said)
      await site.end()
      throw error
    }
    await site.end()
  }

  private func end() async {
    site.killFollower()
    writer?.stop()
    let server = server
    await BlockingPool.shared.run { server.stop(SIGKILL) }
  }

  @discardableResult
  func command(_ words: String...) async throws -> Reply { try await commands([words])[0] }

  @discardableResult
  func commands(_ list: [[String]]) async throws -> [Reply] { try await Self.commands(list, port: server.port) }

  static func commands(_ list: [[String]], port: UInt16) async throws -> [Reply] {
    try await BlockingPool.shared.run {
      let connection = try connect(port)
      let replies = try connection.all(list.map { $0.map { Array($0.utf8) } }, patience: .seconds(30))
      for case .error(let text) in replies { throw WireError.refused(text) }
      return replies
    }
  }

  static func connect(_ port: UInt16) throws -> Connection {
    let socket = try Socket.connect(host: "127.0.0.1", port: port, patience: .seconds(5))
    return try Connection(socket, patience: .seconds(30), interruption: Interruption())
  }

  func count() async throws -> Int { try await command("LLEN", "history").text.flatMap { Int($0) } ?? -1 }

  func offset() async throws -> Int64 {
    Info(try await command("INFO", "replication").text ?? "").integer("master_repl_offset") ?? -1
  }

  /// Waits until all that was done is durable: that is what `WAIT` says of a replica like ours.
  func settle() async throws {
    let replies = try await commands([["SET", "settled", "yes"], ["WAIT", "1", "20000"]])
    #expect(replies[1] == .integer(1), "\(site.said)")
  }

  func startWriting(waits: Bool = false) throws { writer = try RedisWriter(server.port, waits: waits) }

  /// What the client was told is done.
  var acknowledged: [RedisWriter.Row] { writer?.rows ?? [] }

  func stopWriting() { writer?.stop() }

  /// It ends by itself with the server.
  func endWriting() { writer?.join() }

  func killServer() async {
    let server = server
    await BlockingPool.shared.run { server.stop(SIGKILL) }
  }

  /// As when its disk is lost with it.
  func loseServer() async throws {
    await killServer()
    try Files.removeTree(server.dataDirectory)
  }

  func startServer() async throws {
    let server = server
    try await BlockingPool.shared.run { try server.start() }
  }

  func stopServer() async {
    let server = server
    await BlockingPool.shared.run { server.stop() }
  }
}

/// One client that appends to a list again and again, and writes down each that was acknowledged, with the server's time.
final class RedisWriter: Sendable {
  struct Row: Equatable, Sendable {
    var number: Int64
    var seconds: Double
  }

  private struct State {
    var rows: [Row] = []
    var isOver = false
    var hasEnded = false
  }

  private let state = Mutex(State())

  /// - Parameter waits: A row counts once the replica that follows has it.
  init(_ port: UInt16, waits: Bool) throws {
    let connection = try RedisSite.connect(port)
    let thread = Thread { [self] in
      while !state.withLock({ $0.isOver }) {
        var commands = [["MULTI"], ["RPUSH", "history", "x"], ["INCR", "counter"], ["TIME"], ["EXEC"]]
        if waits { commands.append(["WAIT", "1", "0"]) }
        guard let replies = try? connection.all(commands.map { $0.map { Array($0.utf8) } }, patience: .seconds(60)),
          let results = replies[4].elements, results.count == 3, case .integer(let number) = results[0],
          let time = RedisFollower.time(results[2]), !waits || replies[5] == .integer(1)
        else { break }
        state.withLock { $0.rows.append(Row(number: number, seconds: Double(time.nanoseconds) / 1e9)) }
        usleep(2000)
      }
      state.withLock { $0.hasEnded = true }
    }
    thread.start()
  }

  var rows: [Row] { state.withLock { $0.rows } }

  func stop() {
    state.withLock { $0.isOver = true }
    join()
  }

  func join() {
    for _ in 0..<6000 where !state.withLock({ $0.hasEnded }) { usleep(10_000) }
  }
}

#if canImport(Glibc)
  import Glibc
#endif
