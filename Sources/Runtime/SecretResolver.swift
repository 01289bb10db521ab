import Core
import IO
import StateKit
import Subprocess

/// Reads secrets at the moment they are used: from a file, a variable, or what a command prints.
package struct SecretResolver: Sendable {
  private let environment: [String: String]
  private let pool: BlockingPool

  package init(environment: [String: String], pool: BlockingPool) {
    (self.environment, self.pool) = (environment, pool)
  }

  package func resolve(_ reference: SecretReference) async throws(AnyFailure) -> Secret {
    do {
      switch reference {
      case .file(let path):
        return try await pool.run { () throws(SecretFailure) in
          let bytes: [UInt8]
          do throws(SystemFailure) { bytes = try Files.read(path, limitBytes: 1 << 20) } catch {
            throw .unreadable(reference, error.report)
          }
          return try secret(bytes, of: reference)
        }
      case .environment(let name):
        guard let value = environment[name], !value.isEmpty else { throw SecretFailure.empty(reference) }
        return Secret(value)
      case .command(let line):
        guard let words = CommandWords.split(line), let program = words.first else {
          throw SecretFailure.badCommand(reference)
        }
        let result = try await Subprocess.run(
          .name(program), arguments: Arguments(Array(words.dropFirst())), output: .bytes(limit: 1 << 20),
          error: .discarded)
        guard case .exited(0) = result.terminationStatus else {
          throw SecretFailure.commandFailed(reference, "\(result.terminationStatus)")
        }
        return try secret(result.standardOutput, of: reference)
      }
    } catch {
      throw AnyFailure(error)
    }
  }
}

private func secret(_ bytes: [UInt8], of reference: SecretReference) throws(SecretFailure) -> Secret {
  guard let secret = Secret(trimming: bytes) else { throw .empty(reference) }
  return secret
}

/// Why a secret can't be had. Never says what was found.
package enum SecretFailure: Failure {
  case unreadable(SecretReference, Report)
  case empty(SecretReference)
  case badCommand(SecretReference)
  case commandFailed(SecretReference, String)

  package var report: Report {
    switch self {
    case .unreadable(let reference, let report):
      Report("SECRET-101", "can't read \(reference): \(report.summary)").remedy(report.remedy ?? "check the path")
    case .empty(let reference):
      Report("SECRET-102", "\(reference) holds nothing").remedy("put the secret there")
    case .badCommand(let reference):
      Report("SECRET-103", "\(reference) is not a command: check its quotes").remedy("correct it in the catalog")
    case .commandFailed(let reference, let status):
      Report("SECRET-104", "\(reference) ended with \(status)", retry: .afterBackoff)
        .remedy("run the command by hand to see why")
    }
  }
}
