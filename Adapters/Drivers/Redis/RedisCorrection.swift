import Core
import DriverKit
import IO

extension RedisDriver: StoreCorrector {
  func corrector() -> (any StoreCorrector)? { self }

  /// Commands a correction may consist of; each names its key first.
  private static let writing: Set<String> = ["SET", "DEL", "HSET", "HDEL", "RENAMENX"]
  private static let reading: Set<String> = ["GET", "HGET", "EXISTS", "TYPE", "HLEN"]

  /// WATCH, look, and change in one transaction: whoever writes one of the keys in between undoes it.
  func make(_ change: StoreChange) async throws(DriverError) -> ChangeEffect {
    guard case .commands(let expecting, let run) = change, !run.isEmpty,
      expecting.allSatisfy({ $0.command.count > 1 && Self.reading.contains($0.command[0]) }),
      run.allSatisfy({ $0.count > 1 && Self.writing.contains($0[0]) })
    else { throw StoreChange.isNone(of: "commands that name a key") }
    let connection = try await connect()
    do throws(WireError) {
      return try await environment.pool.run { () throws(WireError) -> ChangeEffect in
        let keys = Set(expecting.map { $0.command[1] } + run.map { $0[1] }).sorted()
        _ = try connection.call(words: Self.bytes(["WATCH"] + keys))
        for expected in expecting {
          let answer = try connection.call(words: Self.bytes(expected.command)).text
          guard answer.map({ Array($0.utf8) }) == expected.answer.map({ Array($0.utf8) }) else {
            return .left(
              "\(expected.command.joined(separator: " ")) answers \(answer.map { "'\($0)'" } ?? "nothing") by now")
          }
        }
        _ = try connection.call("MULTI")
        for command in run { _ = try connection.call(words: Self.bytes(command)) }
        guard case .array(let replies) = try connection.call("EXEC") else { return .left("a key changed meanwhile") }
        for reply in replies { if case .error(let why) = reply { return .refused(why) } }
        return .changed(Int64(run.count))
      }
    } catch {
      if case .refused(let why) = error { return .refused(why) }
      throw error.driverError(at: peer, doing: "a correction")
    }
  }

  private static func bytes(_ words: [String]) -> [[UInt8]] { words.map { Array($0.utf8) } }

  func queryBeside(
    _ request: RestoreRequest, _ texts: [String], limit: QueryLimit
  ) async throws(DriverError) -> [QueryResult] {
    try await servingBeside(request) { server throws(DriverError) in
      try await server.blocking { (connection) throws(WireError) in
        var results: [QueryResult] = []
        for text in texts {
          _ = try connection.call("SELECT", "0")
          results.append(try Self.answer(text, connection, limit))
        }
        return results
      }
    }
  }
}
