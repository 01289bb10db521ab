import Catalog
import Core
import IO
import Testing

@testable import Runtime

/// Programs that are asked for something, and what they do with their input.
@Suite("Programs that are asked") struct ProgramInputTests {
  private let secrets = SecretResolver(environment: [:], pool: .shared)
  /// More than a pipe holds.
  private let input = [UInt8](repeating: 120, count: 1 << 20)

  @Test(.timeLimit(.minutes(10))) func `one that reads nothing ends as it likes, and we go on`() async throws {
    for _ in 0..<5 {
      #expect(try await execute(Command(["true"]), secrets, input: input).status == 0)
      #expect(try await execute(Command(["sh", "-c", "exec 0<&-; exit 3"]), secrets, input: input).status == 3)
    }
  }

  @Test(.timeLimit(.minutes(10))) func `one that reads gets all of it, and then the end`() async throws {
    let answer = try await execute(Command(["wc", "-c"]), secrets, input: input)
    #expect(answer.status == 0 && answer.output.hasPrefix("\(input.count)"))
    #expect(try await execute(Command(["wc", "-c"]), secrets).output.hasPrefix("0"))
  }
}
