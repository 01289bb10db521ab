import DriverContract
import Testing

/// The promises of a store that nobody holds, on a real server.
@Suite("etcd keeps the driver contract") struct EtcdContractTests {
  let contract = DriverContract<EtcdFixture>()

  @Test(.timeLimit(.minutes(5))) func traitsAreTold() async throws { try await contract.traitsAreTold() }
  @Test(.timeLimit(.minutes(5))) func captureIsWhole() async throws { try await contract.captureIsWhole() }
  @Test(.timeLimit(.minutes(5))) func sinkErrorsSurface() async throws { try await contract.sinkErrorsSurface() }
  @Test(.timeLimit(.minutes(5))) func restoreBesideIsProved() async throws {
    try await contract.restoreBesideIsProved()
  }
  @Test(.timeLimit(.minutes(5))) func damageIsFound() async throws { try await contract.damageIsFound() }
  @Test(.timeLimit(.minutes(5))) func swapInAndOut() async throws { try await contract.swapInAndOut() }
  @Test(.timeLimit(.minutes(5))) func swapReplays() async throws { try await contract.swapReplays() }
  @Test(.timeLimit(.minutes(5))) func lostStateComesBack() async throws { try await contract.lostStateComesBack() }
  @Test(.timeLimit(.minutes(5))) func precheckFindsNoSpace() async throws { try await contract.precheckFindsNoSpace() }
  @Test(.timeLimit(.minutes(5))) func precheckFindsReadOnlyTarget() async throws {
    try await contract.precheckFindsReadOnlyTarget()
  }
  @Test(.timeLimit(.minutes(5))) func precheckFindsOtherVersion() async throws {
    try await contract.precheckFindsOtherVersion()
  }
  @Test(.timeLimit(.minutes(5))) func precheckFindsRunningServer() async throws {
    try await contract.precheckFindsRunningServer()
  }
  @Test(.timeLimit(.minutes(5))) func swapIsRefusedWhileInUse() async throws {
    try await contract.swapIsRefusedWhileInUse()
  }
  @Test(.timeLimit(.minutes(5))) func queriesOnlyRead() async throws {
    try await contract.queriesOnlyRead(
      reading: "PREFIX record/",
      writing: ["PUT record/1 x", "DEL record/1", "GET --prefix", "TXN", "GET", ""])
  }
}
