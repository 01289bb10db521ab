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
  private var writer: WriterThread?

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
    return try Connection(socket, patience: .seconds(30))
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

  /// - Parameter waits: A row counts once the replica that follows has it.
  func startWriting(waits: Bool = false) throws {
    let connection = try Self.connect(server.port)
    writer = WriterThread(everyMicroseconds: 2000) {
      var commands = [["MULTI"], ["RPUSH", "history", "x"], ["INCR", "counter"], ["TIME"], ["EXEC"]]
      if waits { commands.append(["WAIT", "1", "0"]) }
      guard let replies = try? connection.all(commands.map { $0.map { Array($0.utf8) } }, patience: .seconds(60)),
        let results = replies[4].elements, results.count == 3, case .integer(let number) = results[0],
        let time = RedisFollower.time(results[2]), !waits || replies[5] == .integer(1)
      else { return nil }
      // The server's own time.
      return WrittenRow(number: number, seconds: Double(time.nanoseconds) / 1e9)
    }
  }

  /// What the client was told is done.
  var acknowledged: [WrittenRow] { writer?.rows ?? [] }

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
