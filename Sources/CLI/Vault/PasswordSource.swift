import Console
import Core
import Foundation
import IO
import Runtime

/// Where passwords come from: a file, a command, or a person. Never an argument, which every process may read.
enum PasswordSource {
  /// The whole file without blanks and newlines at its ends, as restic reads it.
  static func file(_ path: String, _ host: Machine) async throws -> Secret {
    let bytes = try await host.pool.run { () throws(SystemFailure) in try Files.read(path, limitBytes: 1 << 20) }
    guard let password = Secret(trimming: bytes) else { throw RepositoryOptionsFailure.emptyPassword(path) }
    return password
  }

  /// As a catalog names it: `file:…`, `env:…` or `command:…`.
  static func reference(_ text: String, _ host: Machine) async throws -> Secret {
    guard let reference = SecretReference(text) else { throw RepositoryOptionsFailure.noReference }
    return try await SecretResolver(environment: host.environment, pool: host.pool).resolve(reference)
  }

  static func command(_ line: String, _ host: Machine) async throws -> Secret {
    try await SecretResolver(environment: host.environment, pool: host.pool).resolve(.command(line))
  }

  /// Asks on the terminal, without echo.
  static func prompt(_ what: String, confirming: Bool, _ host: Machine) async throws -> Secret {
    guard isatty(0) == 1, isatty(2) == 1 else { throw RepositoryOptionsFailure.noPassword }
    let first = await host.pool.run { ask("enter \(what): ") }
    guard let first else { throw RepositoryOptionsFailure.emptyPassword("the terminal") }
    if confirming {
      guard let second = await host.pool.run({ ask("enter it again: ") }), first == second else {
        throw RepositoryOptionsFailure.passwordsDiffer
      }
    }
    return first
  }

  private static func ask(_ question: String) -> Secret? {
    standardError(question)
    var before = termios()
    let isTerminal = tcgetattr(0, &before) == 0
    if isTerminal {
      var silent = before
      silent.c_lflag &= ~tcflag_t(ECHO)
      tcsetattr(0, TCSAFLUSH, &silent)
    }
    defer {
      if isTerminal { tcsetattr(0, TCSAFLUSH, &before) }
      standardError("\n")
    }
    guard let line = readLine(strippingNewline: true), !line.isEmpty else { return nil }
    return Secret(line)
  }
}
