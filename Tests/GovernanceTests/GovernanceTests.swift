// GovernanceTests
