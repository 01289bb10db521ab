import ReplicatedEngineContract
import Testing

@Suite("Engines of failover keep their promises", .serialized) struct EngineContractTests {
  @Test(.timeLimit(.minutes(10)), arguments: EnginePromise.allCases)
  func `three Redis servers`(_ promise: EnginePromise) async throws { try await promise.keep(RedisTrio.self) }

  @Test(.timeLimit(.minutes(10)), arguments: EnginePromise.allCases)
  func `three MariaDB servers`(_ promise: EnginePromise) async throws { try await promise.keep(MariaDBTrio.self) }

  @Test(.timeLimit(.minutes(10)), arguments: EnginePromise.allCases)
  func `three PostgreSQL servers`(_ promise: EnginePromise) async throws { try await promise.keep(PostgreSQLTrio.self) }
}
