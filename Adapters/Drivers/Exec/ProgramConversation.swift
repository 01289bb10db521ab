import Core
import DriverKit

/// A conversation with a driver's program, as whoever tests one needs it: any call, any fields.
package final class ProgramConversation: Sendable {
  private let program: Program

  private init(_ program: Program) { self.program = program }

  /// Starts the program and says nothing yet.
  package static func begin(_ command: [String], in environment: DriverEnvironment) async throws(DriverError)
    -> ProgramConversation
  {
    ProgramConversation(try await Program.start(command, pool: environment.pool, time: environment.time))
  }

  package func call(
    _ call: String, _ fields: [String: JSONValue] = [:], within limit: Duration = .seconds(60)
  ) async throws(DriverError) -> JSONValue {
    try await program.call(call, fields, as: JSONValue.self, within: limit)
  }

  /// The first call of every conversation.
  package func hello(
    settings: [String: String], state: String?, more: [String: JSONValue] = [:]
  ) async throws(DriverError) -> JSONValue {
    var fields: [String: JSONValue] = [
      "protocols": .array([.integer(Int64(Wire.version))]), "store": "test",
      "settings": .object(settings.mapValues { .string($0) }), "secrets": [:],
    ]
    if let state { fields["state"] = .string(state) }
    return try await call("hello", fields.merging(more) { _, new in new }, within: .seconds(10))
  }

  /// Closes the program's standard input and waits for its end.
  ///
  /// - Returns: How it ended.
  package func end() async -> String { await program.close() }
}
