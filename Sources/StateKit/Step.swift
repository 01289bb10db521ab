import Core
import Telemetry

/// What one kind of step does, as the engine calls it: input and output are JSON, as the journal keeps them.
///
/// A crash can come between any two calls, and then the step is probed and perhaps run again, with the same input and a
/// higher ``StepContext/attempt``. Write a ``Step`` and register its ``Step/handler``.
package protocol StepHandler: Sendable {
  var kind: StepKind { get }
  var retry: RetryPolicy { get }
  func probe(_ input: JSONValue, in context: StepContext) async throws -> JSONValue?
  func run(_ input: JSONValue, in context: StepContext) async throws -> JSONValue
  func verify(_ output: JSONValue, of input: JSONValue, in context: StepContext) async throws
  func compensate(_ input: JSONValue, output: JSONValue?, in context: StepContext) async throws
}

/// One kind of step, with its input and output as types.
package protocol Step: Sendable {
  associatedtype Input: Codable & Sendable
  associatedtype Output: Codable & Sendable

  /// Name and version; a step whose input or meaning changes gets a new one, and runs begun before keep the old.
  static var kind: StepKind { get }
  static var retry: RetryPolicy { get }

  /// Looks whether this very step is done already, in the world and not in the journal. Changes nothing.
  ///
  /// - Returns: The output as ``run(_:in:)`` would give it; `nil` if there is anything left to do. "Could not find out"
  ///   is thrown, never returned.
  func probe(_ input: Input, in context: StepContext) async throws -> Output?

  /// Does it. Finds and uses, or clears, what an earlier try left. Every effect that can carry a fence carries
  /// ``StepContext/fence``.
  func run(_ input: Input, in context: StepContext) async throws -> Output

  /// Looks at the world once more and throws if it is not as `output` says. Changes nothing.
  func verify(_ output: Output, of input: Input, in context: StepContext) async throws

  /// Puts things back. Safe to replay, and safe if the step never got to act.
  ///
  /// - Parameter output: `nil` if the step never succeeded.
  func compensate(_ input: Input, output: Output?, in context: StepContext) async throws
}

extension Step {
  package static var retry: RetryPolicy { .exponential() }

  /// For steps with nothing to undo; their ``StepSpec/compensates`` is false and this is never called.
  package func compensate(_ input: Input, output: Output?, in context: StepContext) async throws {
    throw StepError.notCompensatable(Self.kind)
  }

  package var handler: any StepHandler { TypedHandler(step: self) }
}

private struct TypedHandler<S: Step>: StepHandler {
  let step: S

  var kind: StepKind { S.kind }
  var retry: RetryPolicy { S.retry }

  func probe(_ input: JSONValue, in context: StepContext) async throws -> JSONValue? {
    guard let output = try await step.probe(try decode(S.Input.self, input), in: context) else { return nil }
    return try encode(output)
  }

  func run(_ input: JSONValue, in context: StepContext) async throws -> JSONValue {
    try encode(try await step.run(try decode(S.Input.self, input), in: context))
  }

  func verify(_ output: JSONValue, of input: JSONValue, in context: StepContext) async throws {
    try await step.verify(try decode(S.Output.self, output), of: try decode(S.Input.self, input), in: context)
  }

  func compensate(_ input: JSONValue, output: JSONValue?, in context: StepContext) async throws {
    let decoded = try output.map { try decode(S.Output.self, $0) }
    try await step.compensate(try decode(S.Input.self, input), output: decoded, in: context)
  }

  private func decode<T: Decodable>(_ type: T.Type, _ value: JSONValue) throws -> T {
    do { return try value.decoded(as: type) } catch {
      throw StepError.badValue(S.kind, "\(type): \(error)")
    }
  }

  private func encode(_ value: S.Output) throws -> JSONValue {
    do { return try JSONValue(encoding: value) } catch { throw StepError.badValue(S.kind, "output: \(error)") }
  }
}

extension JSONValue {
  /// A value as its JSON.
  package init(encoding value: some Encodable) throws {
    self = try CanonicalJSON.decode(JSONValue.self, from: CanonicalJSON.encode(value))
  }

  package func decoded<T: Decodable>(as type: T.Type) throws -> T {
    try CanonicalJSON.decode(type, from: CanonicalJSON.encode(self))
  }
}

package enum StepError: Failure, Equatable {
  case unknownKind(StepKind, StepID)
  case badValue(StepKind, String)
  case notCompensatable(StepKind)
  case noOutput(StepID)
  /// What a step was given or found makes it impossible.
  case verificationFailed(StepID, String)

  package var report: Report {
    switch self {
    case .unknownKind(let kind, let step):
      Report("STEP-101", "step \(step) is of kind \(kind), which this version doesn't know", retry: .never)
        .remedy("resume the run with the version of salvor that began it")
    case .badValue(let kind, let what):
      Report("STEP-102", "a value of step kind \(kind) can't be read: \(what)", retry: .never)
        .remedy("resume the run with the version of salvor that began it")
    case .notCompensatable(let kind):
      Report("STEP-103", "a step of kind \(kind) can't be undone", retry: .never)
    case .noOutput(let step):
      Report("STEP-104", "step \(step) has no output to build on", retry: .never)
    case .verificationFailed(let step, let what):
      Report("STEP-105", "step \(step) says it is done, but \(what)", retry: .afterBackoff)
    }
  }
}

/// What a step may know and use.
package struct StepContext: Sendable {
  package var run: RunID
  package var step: StepID
  /// From 1.
  package var attempt: Int
  /// Goes with every effect that can carry it.
  package var fence: Fence
  /// An earlier try meant to act and left no outcome: look for what it left.
  package var isReplay: Bool
  /// Outputs of the steps that succeeded before this one began.
  package var outputs: [StepID: JSONValue]
  package var time: any Timekeeper
  package var randomness: any Randomness
  /// Takes progress, for people who wait; the highest `doneBytes` is kept as the step's measure.
  package var progress: ProgressSink
  /// Takes a line for the log. Never a secret.
  package var log: @Sendable (String) -> Void
  /// Asks the journal whether this run is still ours. For just before an effect that can't carry a fence.
  package var confirmLease: @Sendable () async throws(JournalError) -> Void

  package init(
    run: RunID, step: StepID, attempt: Int = 1, fence: Fence = Fence(1), isReplay: Bool = false,
    outputs: [StepID: JSONValue] = [:], time: any Timekeeper, randomness: any Randomness,
    progress: @escaping ProgressSink = { _ in }, log: @escaping @Sendable (String) -> Void = { _ in },
    confirmLease: @escaping @Sendable () async throws(JournalError) -> Void = {}
  ) {
    (self.run, self.step, self.attempt, self.fence, self.isReplay) = (run, step, attempt, fence, isReplay)
    (self.outputs, self.time, self.randomness) = (outputs, time, randomness)
    (self.progress, self.log, self.confirmLease) = (progress, log, confirmLease)
  }

  /// - Throws: ``StepError/noOutput(_:)`` if that step has not succeeded; declare it in `dependsOn`.
  package func output<T: Decodable>(of step: StepID, as type: T.Type) throws -> T {
    guard let value = outputs[step] else { throw StepError.noOutput(step) }
    return try value.decoded(as: type)
  }
}
